/* What the protocol replaces. Weights and deltas as in protocol.pml, but a perfect network, no
 * crashes, one process: a single apply that fails without writing is enough.
 *
 * -DADVANCE_BEFORE_FLUSH  the snapshot is taken before the flush, what receivers say is discarded
 * -DONLY_NOT_ADVANCE      the snapshot advances only where every receiver said ok
 * -DBASE_VERSION          as before, and receivers refuse a delta from another base. Safe, but no
 *                         errors here prove that after one partial success no execution ever
 *                         reports ok again
 * -DFULL_AFTER_FAILURE    as before without the base check, but after a failure the next delta
 *                         carries everything: safe, at the price of full transfers to all
 */
#ifndef NR
#define NR 2
#endif
#ifndef SYNCS
#define SYNCS 3
#endif
#define ALL ((1 << NR) - 1)

byte wt[NR], ver[NR]; /* receivers */
byte snap, snapv, n;
byte mask, val, oks, t, i;
bool failed, said_ok, parted;
byte broken; /* the number of the violated invariant, as in protocol.pml */
#define VIOLATED(n) broken = n; assert(broken != n)

active proctype System() {
  do
  :: n < SYNCS -> atomic {
       n++; oks = 0;
       if :: t = 0 :: t = 1 :: t = 2 :: t = 3 fi; /* the optimizer's step */
       val = t; mask = snap ^ t;
#ifdef FULL_AFTER_FAILURE
       if :: failed -> mask = 3 :: else fi;
#endif
#ifdef ADVANCE_BEFORE_FLUSH
       snap = t;
#endif
       i = 0;
       do
       :: i < NR ->
          if
#ifdef BASE_VERSION
          :: ver[i] == snapv -> wt[i] = (wt[i] & ~mask) | (val & mask); ver[i] = n; oks = oks | (1 << i)
#else
          :: wt[i] = (wt[i] & ~mask) | (val & mask); oks = oks | (1 << i)
#endif
          :: skip /* refused, the weights are as they were */
          fi;
          i++
       :: else -> break
       od;
#ifdef ADVANCE_BEFORE_FLUSH
       said_ok = true;
#else
       said_ok = (oks == ALL);
       if :: said_ok -> snap = val; snapv = n; failed = false :: else -> failed = true fi;
#endif
       i = 0;
#ifdef BASE_VERSION
       /* L1 fails by design: a partial success is the end. */
       if :: parted && said_ok -> VIOLATED(7) :: else fi;
       do :: i < NR -> if :: ver[i] != snapv -> parted = true :: else fi; i++ :: else -> break od;
#else
       /* I4: ok means that everybody really holds the snapshot. */
       do
       :: i < NR -> if :: said_ok && wt[i] != snap -> VIOLATED(4) :: else fi; i++
       :: else -> break
       od;
#endif
       i = 0
     }
  :: else -> break
  od
}
