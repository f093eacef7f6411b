/* The sync protocol of docs/protocol.md, small enough to be searched completely.
 *
 * Weights   two positions of one bit each: 0..3. A digest is the value itself: no collisions.
 * Delta     (mask, val), an overwrite set. A failed write leaves any mix of old and new.
 * Network   whatever was sent can be delivered for ever, any number of times, in any order, or
 *           never: loss, duplication, reordering and zombies. A lost answer needs no step of its
 *           own: it is a request that arrives after the sender has given up. -DLIVE: consumed on
 *           delivery, losses are paid from a budget of faults.
 * Time      a round's deadline may pass at any moment, a slot's time too.
 * Receivers crash at any moment and come back with the bytes they had or those they booted from.
 * History   what has changed since a content was the snapshot's; it forgets whatever it likes.
 * Senders   sender 1 is the next run of the trainer, booted at any checkpoint at any moment. A
 *           crashed sender 0 is one that is never scheduled again, a zombie one that is.
 *
 * Not here: buckets, credits and manifests (a transfer is one message), layouts, leases and pings
 * (they only withdraw readiness), proofs under a challenge (nobody lies), supervision's back-off
 * (admission is asked for at any moment).
 *
 * tests/model/check.sh knows which options must hold and which broken variants must fail.
 */
#ifndef NR
#define NR 2 /* receivers: 2 or 3 */
#endif
#ifndef LIM0
#define LIM0 3 /* transactions of sender 0 */
#endif
#ifndef LIM1
#define LIM1 0 /* transactions of sender 1; 0: there is none */
#endif
#ifndef NS /* stride of the tables: more than the larger limit */
#if LIM0 > LIM1
#define NS (LIM0 + 1)
#else
#define NS (LIM1 + 1)
#endif
#endif
#ifndef REDOS
#define REDOS 0 /* redo rounds after a failed apply: sync.redo_max, 0 to 2 */
#endif

#define X(e, s) ((e) * NS + (s)) /* transaction s of run e */
#define BIT(i) (1 << (i))
#define RBIT(r, i) (1 << (((r) - 2) * NR + (i))) /* who was sent the redo of round r */
#define ALL ((1 << NR) - 1)
#define NONE 255 /* no version */

#define DELTA 1 /* kinds of a transaction */
#define ATTACH 2
#define FULL 3
#define CATCH 4 /* a full of what has changed since */

#define IDLE 1 /* phases of a sender */
#define VOTING 2
#define COMMITTING 3
#define ATTACHING 4
#define SEEDING 5

#define OUT 0 /* phases of a receiver: empty and torn differ in what they report only */
#define SERVING 1
#define WRITING 2 /* applying, reseeding */

/* --- the wire: what transaction (e, s) carries, and to whom each message of it was sent -------- */
byte kind[2 * NS], base[2 * NS], tgt[2 * NS], mask[2 * NS], val[2 * NS];
byte first[2 * NS]; /* prepare with its buckets, attach, or full or catch-up with its buckets */
byte commit[2 * NS], abrt[2 * NS], redo[2 * NS];

/* --- sender, join and snapshot: one failure domain --------------------------------------------- */
byte phase[2], cur[2], rnd[2];
byte snap[2], snapv[2];
byte memb[2];  /* members */
byte view[2];  /* participants of the transaction under way who were not evicted */
byte asked[2]; /* participants of the round under way */
byte ok[2], bad[2], doubt[2]; /* answers of the round; doubt: a refusal for the receiver's own state */
byte acked[2]; /* acknowledged in any round of this transaction */
byte gone[2];  /* members and participants whose life has ended; the sender may not know yet */
byte since[8]; /* 4 | what has changed since the snapshot was this content; 0: nobody knows */
byte hold[2 * NR]; /* what a receiver said that it holds when it was asked to attach */
byte left[2];  /* who gets a full after those who catch up */

/* --- receivers --------------------------------------------------------------------------------- */
byte rrun[NR], rseq[NR]; /* the fence; rrun is run + 1, 0: obeyed nobody yet */
byte ph[NR], slot[NR], srnd[NR]; /* srnd: the round that the slot's answer quotes, 0 while staged */
bool arr[NR];            /* the slot's bytes are not all there, or not proven yet */
byte att[NR];            /* the attach whose digest is being taken */
bool lacks[NR];          /* what was obeyed last is an attach, and the answer was need_full */
byte trun[NR], tver[NR]; /* the tag */
byte wt[NR];             /* the weights */

/* --- ghosts: nobody reads them but the invariants ---------------------------------------------- */
byte content[2 * NS]; /* the bytes that version (e, v) names */
byte wrote[2], did[2]; /* who began, who finished writing the transaction under way */
bool aborted[2 * NS];
byte broken;          /* the number of the violated invariant */
#define VIOLATED(n) broken = n; assert(broken != n)
#ifdef ONLY /* the number of the one invariant that is looked at */
#define DEMAND(n, what) if :: (what) || n != ONLY :: else -> VIOLATED(n) fi
#define WATCHED(n) (n == ONLY)
#else
#define DEMAND(n, what) if :: (what) :: else -> VIOLATED(n) fi
#define WATCHED(n) true
#endif

/* --- faults ------------------------------------------------------------------------------------ */
#ifdef LIVE
byte budget = LIVE; /* faults that may still happen */
byte done;          /* syncs that everybody acknowledged */
bool late;          /* a deadline passes that need not */
#define FAULT (budget > 0)
#define PAY budget--
#define CONSUME(set, bit) set = set & ~(bit)
#define DEADLINE (timeout || late)
#else
#define FAULT true
#define PAY skip
#define CONSUME(set, bit) skip
#define DEADLINE true
#endif
#ifdef CRASHES /* bounds the crashes of receivers */
byte crashes = CRASHES;
#define MAY_CRASH (crashes > 0)
#define PAY_CRASH crashes--
#else
#define MAY_CRASH true
#define PAY_CRASH skip
#endif
#ifdef FREE /* one content is as good as another where everybody may say anything */
#define STEP t = 3
#elif defined(TOGGLE) /* weights go 0 <-> 3 only; torn ones are 1 and 2 */
#define STEP if :: t = 0 :: t = 3 fi
#elif defined(UNDO) /* 0, then 1 and 2 by turns or at will: a step may undo the one before */
#define STEP if :: t = 1 :: t = 2 fi
#else
#define STEP if :: t = 0 :: t = 1 :: t = 2 :: t = 3 fi
#endif

/* --- what the broken variants change ----------------------------------------------------------- */
#ifdef NO_RUN_FENCE /* sequence numbers only */
#define OF_RUN(e) true
#define NEWER(e, s) (SEQ(e, s) > rseq[i])
#define TAG_IS(e, v) (tver[i] == (v))
#define SLOT_IS(e, s) (slot[i] != 0 && slot[i] % NS == (s))
#else
#define OF_RUN(e) (rrun[i] == (e) + 1)
#define NEWER(e, s) (rrun[i] < (e) + 1 || (rrun[i] == (e) + 1 && SEQ(e, s) > rseq[i]))
#define TAG_IS(e, v) (trun[i] == (e) && tver[i] == (v))
#ifndef REUSE_VERSION
#define SLOT_IS(e, s) (slot[i] == X(e, s))
#endif
#endif
#ifdef REUSE_VERSION /* an aborted sync's number is taken by the next transaction */
byte num[2 * NS], seq[2];
#define SEQ(e, s) num[X(e, s)]
#define SLOT_IS(e, s) (slot[i] != 0 && slot[i] / NS == (e) && num[slot[i]] == SEQ(e, s))
#define TAKE_NUMBER seq[e]++; num[x] = seq[e]
#define BURN_NUMBER seq[e]--
#else
#define SEQ(e, s) (s)
#define TAKE_NUMBER skip
#define BURN_NUMBER skip
#endif
#ifdef NODIGEST /* nothing is proved but what an attach compares: the fences alone */
#define BASE_TAG(x) true
#define BASE_BYTES(x) true
#define TARGET_BYTES(x) true
#define LEADS(x) true
#define SAME_TARGET(x, y) true
#else
#ifdef NO_RUN_FENCE
#define BASE_TAG(x) (tver[i] == base[x])
#else
#define BASE_TAG(x) (trun[i] == (x) / NS && tver[i] == base[x])
#endif
#define BASE_BYTES(x) (wt[i] == (val[x] ^ mask[x]))
#define TARGET_BYTES(x) (wt[i] == val[x])
#define LEADS(x) (((wt[i] & ~mask[x]) | (val[x] & mask[x])) == val[x])
#define SAME_TARGET(x, y) (val[x] == val[y])
#endif
#if defined(NO_RUN_FENCE) || defined(NO_INCARNATION) || defined(REUSE_VERSION) || \
    defined(ATTACH_WITHOUT_FENCE) || defined(FREE)
#define NOCANON 1 /* the reduction argues from the fences */
#endif

/* --- a sound reduction of the state space ------------------------------------------------------
 * Clears what can never be observed again: messages that no fence will let through, what nobody
 * can receive any more, contents that no tag refers to. */
c_code {
  void canon(void) {
#ifndef NOCANON
    int e, s, i, r, v;
    for (e = 0; e < 2; e++) {
      now.gone[e] &= now.memb[e] | now.view[e] | now.asked[e] | now.left[e];
      /* Too late for anybody to catch up. */
      if (now.cur[e] + (now.phase[e] == ATTACHING ? 1 : 2) > (e == 0 ? LIM0 : LIM1))
        for (v = 0; v < 4; v++) now.since[4 * e + v] = 0;
      for (s = 1; s < NS; s++) {
        int x = e * NS + s, used = now.cur[e] == s && now.phase[e] != IDLE;
        int acks = now.cur[e] == s && now.phase[e] == COMMITTING;
        for (i = 0; i < NR; i++) {
          int b = 1 << i, same = now.rrun[i] == e + 1;
          int newer = now.rrun[i] < e + 1 || (same && s > now.rseq[i]);
          int holds = now.trun[i] == e && now.tver[i] == now.tgt[x];
          if (!newer || ((now.kind[x] == DELTA || now.kind[x] == CATCH) && !same))
            now.first[x] &= ~b;
          if (!same || now.rseq[i] > s ||
              (now.rseq[i] == s && !(now.slot[i] == x && now.ph[i] != WRITING) &&
               !(acks && now.rnd[e] == 1)))
            now.commit[x] &= ~b;
          for (r = 2; r < 2 + REDOS; r++)
            if (!same || now.rseq[i] != s || (holds && !(acks && now.rnd[e] == r)))
              now.redo[x] &= ~(1 << ((r - 2) * NR + i));
          if (!same || (now.slot[i] != x && !(now.first[x] & b))) now.abrt[x] &= ~b;
          if (now.slot[i] == x || now.att[i] == x) used = 1;
        }
        if (!used && !now.first[x] && !now.commit[x] && !now.abrt[x] && !now.redo[x])
          now.kind[x] = now.base[x] = now.tgt[x] = now.mask[x] = now.val[x] = now.aborted[x] = 0;
      }
      for (v = 0; v < NS; v++) {
        int named = now.snapv[e] == v;
        for (i = 0; i < NR; i++) named |= now.tver[i] == v && now.trun[i] == e;
        for (s = 1; s < NS; s++) named |= now.kind[e * NS + s] && now.tgt[e * NS + s] == v;
        if (!named) now.content[e * NS + v] = 0;
      }
    }
#endif
  }
  /* What was addressed to the old life reaches nobody. */
  void drop_messages(int i) {
    int x, r;
    for (x = 0; x < 2 * NS; x++) {
      now.first[x] &= ~(1 << i);
      now.commit[x] &= ~(1 << i);
      now.abrt[x] &= ~(1 << i);
      for (r = 0; r < 2; r++) now.redo[x] &= ~(1 << (r * NR + i));
    }
  }
};
#define CANON c_code { canon(); }

#include "relation.pml"

/* --- receiver ---------------------------------------------------------------------------------- */

/* The join counts a reply that quotes the round under way, from somebody asked; the first stands. */
#define ASKS(e, s, r) \
  (cur[e] != 0 && SEQ(e, cur[e]) == SEQ(e, s) && kind[X(e, cur[e])] == kind[X(e, s)] && \
   phase[e] != IDLE && rnd[e] == (r))
#define REPLY(set, e, s, r) \
  SAY(set, e, s, r); \
  if \
  :: ASKS(e, s, r) && (asked[e] & ~(ok[e] | bad[e] | doubt[e]) & BIT(i)) -> set[e] = set[e] | BIT(i) \
  :: else \
  fi

inline stop_serving(p) {
  ph[i] = p;
#ifndef SERVE_TORN
  tver[i] = NONE; trun[i] = 0
#endif
}

inline adopt(x) {
  ph[i] = SERVING; trun[i] = (x) / NS; tver[i] = tgt[x]
}

inline write_some(x) {
  if
  :: wt[i] = (wt[i] & ~(mask[x] & 1)) | (val[x] & mask[x] & 1)
  :: wt[i] = (wt[i] & ~(mask[x] & 2)) | (val[x] & mask[x] & 2)
  :: skip
  fi
}

inline write_all(x) { wt[i] = (wt[i] & ~mask[x]) | (val[x] & mask[x]) }

/* The executor ends a write that was begun before it looks at anything newer, so whatever of it
 * becomes true has become true by then; nobody is served meanwhile. */
inline drop_slot() {
  if
  :: ph[i] == WRITING ->
     if
     :: write_all(slot[i])
     :: write_some(slot[i])
     fi;
     stop_serving(OUT)
  :: else
  fi;
  slot[i] = 0; srnd[i] = 0; arr[i] = 0
}

/* The tag is void before the first byte is written. */
inline start_write(x, r) {
#ifndef REUSE_VERSION /* there an attempt and its retry are one name, so I5 says nothing of it */
  DEMAND(5, !aborted[x]);
#endif
  slot[i] = x; srnd[i] = r; stop_serving(WRITING);
  if
  :: cur[x / NS] == x % NS -> wrote[x / NS] = wrote[x / NS] | BIT(i)
  :: else
  fi
}

inline raise_fence(e, s) {
  if /* lower only without the run fence */
  :: rrun[i] < e + 1 -> rrun[i] = e + 1
  :: else
  fi;
  rseq[i] = SEQ(e, s); att[i] = 0; lacks[i] = 0
}

inline on_prepare(e, s) {
  CONSUME(first[X(e, s)], BIT(i));
  raise_fence(e, s); drop_slot();
  if
  :: ph[i] == SERVING && BASE_TAG(X(e, s)) -> slot[i] = X(e, s); arr[i] = 1
  :: else -> REPLY(doubt, e, s, 0)
  fi
}

/* The bytes of a delta are there, or refused: a bucket not as announced, no memory. */
inline on_staged(x) {
  arr[i] = 0;
  if
  :: BASE_BYTES(x) -> REPLY(ok, x / NS, x % NS, 0)
  :: !BASE_BYTES(x) -> slot[i] = 0; stop_serving(OUT); REPLY(doubt, x / NS, x % NS, 0)
#ifndef LIVE
  :: BASE_BYTES(x) -> slot[i] = 0; stop_serving(OUT); REPLY(doubt, x / NS, x % NS, 0) /* rot */
#endif
  :: FAULT -> PAY; slot[i] = 0; REPLY(bad, x / NS, x % NS, 0)
  fi
}

inline on_commit(e, s) {
  CONSUME(commit[X(e, s)], BIT(i));
  if
  :: SLOT_IS(e, s) && !arr[i] && SAME_TARGET(slot[i], X(e, s)) -> start_write(slot[i], 1)
  :: else ->
     if
     :: rseq[i] == SEQ(e, s) && TAG_IS(e, tgt[X(e, s)]) -> REPLY(ok, e, s, 1)
     :: else -> REPLY(bad, e, s, 1)
     fi
  fi
}

/* Right on the base and on any mix of base and target (F2), nowhere else: the fence says which
 * transaction's bytes may be mixed in. */
inline on_redo(e, s, r) {
  CONSUME(redo[X(e, s)], RBIT(r, i));
  if
  :: TAG_IS(e, tgt[X(e, s)]) -> REPLY(ok, e, s, r)
  :: else -> drop_slot(); slot[i] = X(e, s); srnd[i] = r; arr[i] = 1
  fi
}

/* The bytes of a redo are there, or refused before anything was written. */
inline on_checked(x) {
  arr[i] = 0;
  if
  :: start_write(x, srnd[i])
  :: FAULT -> PAY; REPLY(bad, x / NS, x % NS, srnd[i]); slot[i] = 0; srnd[i] = 0
  fi
}

/* Fences first, then the digest that is attested. */
inline on_attach(e, s) {
  CONSUME(first[X(e, s)], BIT(i));
#ifndef ATTACH_WITHOUT_FENCE
  raise_fence(e, s); drop_slot();
#endif
  att[i] = X(e, s)
}

inline on_digest(x) { /* x is the caller's copy: parameters of an inline are text */
  att[i] = 0;
  if
  :: wt[i] == val[x] ->
     adopt(x);
     did[x / NS] = did[x / NS] | (BIT(i) * ASKS(x / NS, x % NS, 0)); REPLY(ok, x / NS, x % NS, 0)
  :: else ->
     if
     :: ph[i] == SERVING && trun[i] != x / NS -> stop_serving(OUT) /* of a run that is over */
#ifndef LIVE
     :: ph[i] == SERVING && trun[i] == x / NS -> stop_serving(OUT) /* not the tag's bytes: rot */
#endif
     :: !(ph[i] == SERVING && trun[i] != x / NS)
     fi;
     lacks[i] = 1;
     if /* counts, as below */
     :: ASKS(x / NS, x % NS, 0) -> hold[(x / NS) * NR + i] = wt[i]
     :: else
     fi;
     REPLY(bad, x / NS, x % NS, 0)
  fi
}

inline on_full(e, s) {
  CONSUME(first[X(e, s)], BIT(i));
  raise_fence(e, s); drop_slot();
  if
  :: start_write(X(e, s), 0)
  :: FAULT -> PAY; REPLY(bad, e, s, 0) /* refused: no byte written, the tag stands */
  fi
}

/* Staged like a delta, for whoever has just said what it holds. */
inline on_catch(e, s) {
  CONSUME(first[X(e, s)], BIT(i));
  if
  :: lacks[i] -> d = 1
  :: else
  fi;
  raise_fence(e, s); drop_slot();
  if
  :: d -> slot[i] = X(e, s); arr[i] = 1
  :: else -> REPLY(bad, e, s, 0)
  fi;
  d = 0
}

/* Written only where it is proven that these bytes lead to the target from what is held. */
inline on_proven(x) {
  arr[i] = 0;
  if
  :: LEADS(x) -> start_write(x, 0)
  :: !LEADS(x) -> slot[i] = 0; REPLY(bad, x / NS, x % NS, 0)
#ifndef LIVE
  :: slot[i] = 0; stop_serving(OUT); REPLY(bad, x / NS, x % NS, 0) /* rot */
#endif
  :: FAULT -> PAY; slot[i] = 0; REPLY(bad, x / NS, x % NS, 0)
  fi
}

inline on_written(x) {
  if
  :: write_all(x);
     if
     :: TARGET_BYTES(x) ->
        adopt(x);
        did[x / NS] = did[x / NS] | (BIT(i) * ASKS(x / NS, x % NS, rnd[x / NS]));
        REPLY(ok, x / NS, x % NS, srnd[i])
     :: else -> stop_serving(OUT); REPLY(bad, x / NS, x % NS, srnd[i])
     fi
  :: FAULT -> PAY; write_some(x); stop_serving(OUT); REPLY(bad, x / NS, x % NS, srnd[i])
  fi;
  slot[i] = 0; srnd[i] = 0
}

/* The slot's time is over, and nothing of it was written. */
inline expire() { slot[i] = 0; srnd[i] = 0; arr[i] = 0 }

inline crash() {
  PAY; PAY_CRASH;
  drop_slot();
  rrun[i] = 0; rseq[i] = 0; att[i] = 0; lacks[i] = 0; ph[i] = OUT; trun[i] = 0; tver[i] = NONE;
  if
  :: wt[i] = 0 /* the checkpoint it booted from */
  :: skip      /* bytes that outlived it */
  fi;
#ifndef NO_INCARNATION
  c_code { drop_messages(PReceiver->i); };
  gone[0] = gone[0] | (BIT(i) & (memb[0] | view[0] | asked[0] | left[0]));
  gone[1] = gone[1] | (BIT(i) & (memb[1] | view[1] | asked[1] | left[1]));
#endif
  START; CANON
}

#define SENT(set, e, s) (set[X(e, s)] & BIT(i))
#define IS(e, s, k) (kind[X(e, s)] == k)
#if REDOS > 0
#define REDO_SENT(e, s, r) ((redo[X(e, s)] & RBIT(r, i)) && OF_RUN(e) && rseq[i] == SEQ(e, s))
#define ON_REDO(e, s, r) \
  :: atomic { REDO_SENT(e, s, r) && ph[i] != WRITING && srnd[i] == 0 -> \
       BEFORE(X(e, s), REDO); on_redo(e, s, r); AFTER(X(e, s)); CANON } \
  :: atomic { REDO_SENT(e, s, r) && SLOT_IS(e, s) && srnd[i] > 1 && srnd[i] < r -> \
       CONSUME(redo[X(e, s)], RBIT(r, i)); srnd[i] = r; CANON }
#else
#define ON_REDO(e, s, r)
#endif
#if REDOS > 1
#define ON_REDOS(e, s) ON_REDO(e, s, 2) ON_REDO(e, s, 3)
#else
#define ON_REDOS(e, s) ON_REDO(e, s, 2)
#endif
#ifdef FREE /* a commit that names other bytes than those staged */
#define ON_MISFIT(e, s) \
  :: atomic { SENT(commit, e, s) && OF_RUN(e) && SLOT_IS(e, s) && !arr[i] && srnd[i] == 0 && \
              ph[i] != WRITING -> \
       BEFORE(X(e, s), COMMIT_MISFIT); REPLY(bad, e, s, 1); AFTER(X(e, s)) }
#else
#define ON_MISFIT(e, s)
#endif
#ifdef REUSE_VERSION /* a repeated question gets the answer it had */
#define ON_REPEATED(e, s) \
  :: atomic { SENT(first, e, s) && IS(e, s, DELTA) && OF_RUN(e) && SLOT_IS(e, s) && ph[i] != WRITING && !arr[i] && \
              ASKS(e, s, 0) && (asked[e] & ~(ok[e] | bad[e] | doubt[e]) & BIT(i)) -> REPLY(ok, e, s, 0) }
#else
#define ON_REPEATED(e, s)
#endif
#ifdef LIVE
#define ON_LOSS(e, s) \
  :: atomic { FAULT && SENT(first, e, s) -> PAY; CONSUME(first[X(e, s)], BIT(i)) } \
  :: atomic { FAULT && SENT(commit, e, s) -> PAY; CONSUME(commit[X(e, s)], BIT(i)) } \
  :: atomic { FAULT && SENT(abrt, e, s) -> PAY; CONSUME(abrt[X(e, s)], BIT(i)) } \
  :: atomic { FAULT && (redo[X(e, s)] & RBIT(2, i)) -> PAY; CONSUME(redo[X(e, s)], RBIT(2, i)) }
#else
#define ON_LOSS(e, s)
#endif

/* Everything that receiver i may do about transaction (e, s). What stands not here is ignored. */
#define ON(e, s) \
  :: atomic { SENT(first, e, s) && IS(e, s, DELTA) && OF_RUN(e) && NEWER(e, s) -> \
       BEFORE(X(e, s), PREPARE); on_prepare(e, s); AFTER(X(e, s)); CANON } \
  :: atomic { SENT(first, e, s) && IS(e, s, ATTACH) && NEWER(e, s) -> \
       BEFORE(X(e, s), ATTACH); on_attach(e, s); AFTER(X(e, s)); CANON } \
  :: atomic { SENT(first, e, s) && IS(e, s, FULL) && NEWER(e, s) -> \
       BEFORE(X(e, s), FULL); on_full(e, s); AFTER(X(e, s)); CANON } \
  :: atomic { SENT(first, e, s) && IS(e, s, CATCH) && OF_RUN(e) && NEWER(e, s) -> \
       BEFORE(X(e, s), CATCH); on_catch(e, s); AFTER(X(e, s)); CANON } \
  :: atomic { SENT(commit, e, s) && OF_RUN(e) && rseq[i] <= SEQ(e, s) && \
              !(rseq[i] == SEQ(e, s) && (ph[i] == WRITING || srnd[i] > 0)) -> \
       BEFORE(X(e, s), COMMIT); on_commit(e, s); AFTER(X(e, s)); CANON } \
  ON_MISFIT(e, s) \
  :: atomic { SENT(abrt, e, s) && OF_RUN(e) && SLOT_IS(e, s) && ph[i] != WRITING && srnd[i] == 0 -> \
       BEFORE(X(e, s), ABORT); CONSUME(abrt[X(e, s)], BIT(i)); slot[i] = 0; arr[i] = 0; \
       AFTER(X(e, s)); CANON } \
  ON_REDOS(e, s) ON_REPEATED(e, s) ON_LOSS(e, s)

/* What receiver i does by itself is OWN: about transaction w. */
proctype Receiver(byte i) {
  byte w, d;
end:
  do
  ON(0, 1)
#if LIM0 > 1
  ON(0, 2)
#endif
#if LIM0 > 2
  ON(0, 3)
#endif
#if LIM0 > 3
  ON(0, 4)
#endif
#if LIM0 > 4
  ON(0, 5) ON(0, 6) ON(0, 7) ON(0, 8)
#endif
#if LIM0 > 8
  ON(0, 9) ON(0, 10)
#endif
#if LIM0 > 10
  ON(0, 11) ON(0, 12) ON(0, 13) ON(0, 14)
#endif
#if LIM1 > 0
  ON(1, 1)
#endif
#if LIM1 > 1
  ON(1, 2)
#endif
#if LIM1 > 2
  ON(1, 3)
#endif
  :: atomic { att[i] != 0 && ph[i] != WRITING -> w = att[i]; OWN(DIGEST, on_digest(w)) }
  :: atomic { arr[i] && srnd[i] == 0 && kind[slot[i]] == DELTA -> w = slot[i]; OWN(STAGED, on_staged(w)) }
  :: atomic { arr[i] && kind[slot[i]] == CATCH -> w = slot[i]; OWN(PROVEN, on_proven(w)) }
  :: atomic { arr[i] && srnd[i] != 0 -> w = slot[i]; OWN(CHECKED, on_checked(w)) }
  :: atomic { ph[i] == WRITING -> w = slot[i]; OWN(WRITTEN, on_written(w)) }
  :: atomic { FAULT && slot[i] != 0 && ph[i] != WRITING -> PAY; w = slot[i]; OWN(EXPIRED, expire()) }
  :: atomic { FAULT && MAY_CRASH -> crash() }
  od
}

/* --- sender ------------------------------------------------------------------------------------ */
#define LIVING(e) (memb[e] & ~gone[e])
#define ANSWERED(e) (((ok[e] | bad[e] | doubt[e]) & asked[e]) == asked[e])
#define ROUND_OVER(e) (ANSWERED(e) || DEADLINE)

inline pay_deadline() {
#ifdef LIVE
  if :: !ANSWERED(e) -> late = 0 :: else fi
#else
  skip
#endif
}

inline any_subset(set) {
  if :: skip :: (set & 1) -> set = set & ~1 fi;
  if :: skip :: (set & 2) -> set = set & ~2 fi;
  if :: skip :: (set & 4) -> set = set & ~4 fi
}

/* Out of the view and no member any more; what is left of its life is nobody's business. */
inline evict(set) {
  memb[e] = memb[e] & ~(set); view[e] = view[e] & ~(set); gone[e] = gone[e] & ~(set)
}

/* The sender may or may not have heard that a life has ended. */
inline heard_down() { d = view[e] & gone[e]; any_subset(d) HEARD(d) }

inline open_round(r, who) {
  rnd[e] = r; asked[e] = who; ok[e] = 0; bad[e] = 0; doubt[e] = 0
}

inline begin(k, who) {
  cur[e]++; x = X(e, cur[e]); kind[x] = k; TAKE_NUMBER;
  view[e] = who; acked[e] = 0; wrote[e] = 0; did[e] = 0; open_round(0, who);
  first[x] = who & ~gone[e]; SENDS(who)
}

inline forget_held() {
  hold[e * NR] = 0; hold[e * NR + NR - 1] = 0;
#if NR > 2
  hold[e * NR + 1] = 0
#else
  skip
#endif
}

inline rest() {
  view[e] = 0; acked[e] = 0; wrote[e] = 0; did[e] = 0; left[e] = 0; forget_held(); open_round(0, 0);
  gone[e] = gone[e] & memb[e]; phase[e] = IDLE; x = 0; d = 0; u = 0; CANON
}

inline start_sync() {
  begin(DELTA, memb[e]);
  STEP; /* the optimizer's */
  base[x] = snapv[e]; val[x] = t; mask[x] = snap[e] ^ t; tgt[x] = SEQ(e, cur[e]);
  content[X(e, tgt[x])] = t; t = 0;
#ifdef ADVANCE_BEFORE_FLUSH /* and whatever receivers answer stays so */
  snap[e] = val[x]; snapv[e] = tgt[x];
#endif
  phase[e] = VOTING; x = 0; CANON
}

/* sync.members_min: an abort of what was never announced is obeyed by nobody. */
inline too_few() { cur[e]++; SENDS(memb[e]); CANON }

/* Who did not say yes is out before anybody is told to write. */
inline decide() {
  pay_deadline(); heard_down();
  u = ok[e] & view[e] & ~d;
  if
  :: u != 0 ->
     d = view[e] & ~u; evict(d);
     x = X(e, cur[e]); commit[x] = view[e] & ~gone[e]; SENDS(view[e]);
#ifdef ADVANCE_AT_DECISION
     snap[e] = val[x]; snapv[e] = tgt[x];
#endif
     phase[e] = COMMITTING; open_round(1, view[e]); x = 0; d = 0; u = 0; CANON
  :: else -> d = 0; u = 0; abort() /* sync.members_min is at least one */
  fi
}

/* Who refused the delta itself stays a member; whose own state is in doubt does not. */
inline abort() {
  DEMAND(5, wrote[e] == 0);
  x = X(e, cur[e]); abrt[x] = view[e] & ~gone[e]; SENDS(view[e]); aborted[x] = true;
  heard_down();
  d = d | (view[e] & ~(ok[e] | bad[e]));
  evict(d); BURN_NUMBER; rest()
}

/* The end of a round of acknowledgements. Nothing decided is rolled back or encoded anew: who can
 * be told again is told again, who cannot is evicted, the others go on without it. */
inline on_acks() {
  pay_deadline();
  acked[e] = acked[e] | (ok[e] & asked[e]);
  u = bad[e] & asked[e];     /* may be asked to do it again */
  d = asked[e] & ~(ok[e] | u); /* silent */
#ifdef ONLY_NOT_ADVANCE
  if
  :: u | d -> rest()
  :: else -> conclude()
  fi
#else
  evict(d);
  if
  :: u != 0 && rnd[e] <= REDOS -> redo_round()
  :: else -> evict(u); conclude()
  fi
#endif
}

inline redo_round() {
  open_round(rnd[e] + 1, u); x = X(e, cur[e]);
  redo[x] = redo[x] | ((u & ~gone[e]) << ((rnd[e] - 2) * NR)); SENDS(u); x = 0; u = 0; d = 0; CANON
}

/* Who acknowledged and ended meanwhile is out first: nobody knows what its next life holds. An
 * empty view may advance. */
inline moved(c) {
  if
  :: since[4 * e + c] -> since[4 * e + c] = since[4 * e + c] | mask[x]
  :: else
  fi
}

inline conclude() {
  heard_down(); evict(d);
  DEMAND(4, (acked[e] & view[e]) == view[e]); /* all_ok: the snapshot's own gate */
  DEMAND(4, (did[e] & view[e]) == view[e]);   /* ok implies really applied */
  x = X(e, cur[e]);
#if !defined(ADVANCE_AT_DECISION) && !defined(ADVANCE_BEFORE_FLUSH)
  moved(0); moved(1); moved(2); moved(3);
  since[4 * e + snap[e]] = 4 | mask[x];
  snap[e] = (snap[e] & ~mask[x]) | (val[x] & mask[x]); snapv[e] = tgt[x];
  since[4 * e + snap[e]] = 0; /* what is the snapshot's nobody lacks */
#endif
  DEMAND(6, snap[e] == content[X(e, snapv[e])]);
#ifdef LIVE
  if :: view[e] == ALL && done < 2 -> done++ :: else fi;
#endif
  rest()
}

/* One transaction for whoever waits; their fences are about to be raised, so they are no members. */
inline start_attach() {
  u = ALL & ~LIVING(e);
#ifndef LIVE
  any_subset(u);
#endif
  if
  :: u != 0 ->
     evict(u); begin(ATTACH, u);
     val[x] = snap[e]; tgt[x] = snapv[e]; mask[x] = 3;
     phase[e] = ATTACHING; x = 0; u = 0; CANON
  :: else
  fi
}

inline admit() {
  DEMAND(4, (ok[e] & view[e] & ~did[e]) == 0);
  heard_down();
  memb[e] = memb[e] | (ok[e] & view[e] & ~d);
  gone[e] = gone[e] & ~d
}

#define KNOWN(i) \
  if \
  :: (u & BIT(i)) && since[4 * e + hold[e * NR + (i)]] -> t = t | BIT(i) \
  :: else \
  fi
#ifdef CATCH_UP_UNPROVEN_BASE /* from what somebody may hold who is behind, whatever was said */
#define SINCE(i) \
  if \
  :: since[4 * e] -> mask[x] = mask[x] | since[4 * e] \
  :: since[4 * e + 1] -> mask[x] = mask[x] | since[4 * e + 1] \
  :: since[4 * e + 2] -> mask[x] = mask[x] | since[4 * e + 2] \
  :: since[4 * e + 3] -> mask[x] = mask[x] | since[4 * e + 3] \
  fi
#elif defined(CATCH_UP_BY_DIFF) /* what differs from what one of them holds */
#define SINCE(i) mask[x] = hold[e * NR + (i)] ^ snap[e]
#else
#define SINCE(i) mask[x] = mask[x] | since[4 * e + hold[e * NR + (i)]]
#endif
#define MERGE(i) \
  if \
  :: view[e] & BIT(i) -> SINCE(i) \
  :: else \
  fi

/* Whose digest differed is brought up by a transaction of its own: those who hold what the history
 * knows by all that has changed since any of them held the snapshot, the others after them by a
 * full. */
inline on_attached() {
  pay_deadline(); admit();
  u = bad[e] & view[e] & ~d;
  KNOWN(0);
#if NR > 1
  KNOWN(1);
#endif
#if NR > 2
  KNOWN(2);
#endif
#ifndef LIVE
  any_subset(t); /* the history forgot, or a full is smaller */
#endif
#ifdef RESEED_ALL
  t = 0; /* all weights to all */
#endif
  if
  :: u != 0 && cur[e] < lim ->
     if
     :: t != 0 ->
        left[e] = u & ~t; u = t;
        gone[e] = gone[e] & (memb[e] | left[e] | u); d = 0;
        begin(CATCH, u);
        MERGE(0);
#if NR > 1
        MERGE(1);
#endif
#if NR > 2
        MERGE(2);
#endif
        mask[x] = mask[x] & 3;
        val[x] = snap[e]; tgt[x] = snapv[e];
        forget_held(); phase[e] = SEEDING; x = 0; u = 0; t = 0; CANON
     :: else -> start_full()
     fi
  :: else -> t = 0; rest()
  fi
}

inline start_full() {
#ifdef RESEED_ALL
  u = u | memb[e]; memb[e] = 0; /* out of the view before a byte of theirs is written */
#endif
  gone[e] = gone[e] & (memb[e] | u); d = 0; left[e] = 0; forget_held();
  begin(FULL, u);
  val[x] = snap[e]; tgt[x] = snapv[e]; mask[x] = 3;
  phase[e] = SEEDING; x = 0; u = 0; CANON
}

/* Whom what has changed did not help is given all weights at once. */
inline on_seeded() {
  pay_deadline(); admit();
  if
  :: kind[X(e, cur[e])] == CATCH -> left[e] = left[e] | (bad[e] & view[e] & ~d)
  :: else
  fi;
  u = left[e] & gone[e]; any_subset(u); u = left[e] & ~u;
  if
  :: u != 0 && cur[e] < lim -> start_full()
  :: else -> rest()
  fi
}

/* A member that takes no part in what is under way is said to be down, be it true or not. */
inline on_down() { d = memb[e]; any_subset(d); evict(d); d = 0; CANON }

#ifdef LIVE
#define MAY_SYNC(e) (LIVING(e) == ALL && done < 2)
#else
#define MAY_SYNC(e) (memb[e] != 0)
#endif

#ifndef FREE
proctype Sender(byte e; byte lim) {
  byte x, t, d, u;
  atomic {
#ifndef LIVE
    if :: e == 0 :: e == 1 -> STEP fi; /* a restart from any checkpoint */
#endif
    snap[e] = t; content[X(e, 0)] = t; phase[e] = IDLE; t = 0
  };
  do
  :: atomic { phase[e] == IDLE && cur[e] < lim && MAY_SYNC(e) -> STEP_OF(SYNC, start_sync()) }
#ifndef LIVE
  :: atomic { phase[e] == IDLE && cur[e] < lim && MAY_SYNC(e) -> STEP_OF(TOO_FEW, too_few()) }
#endif
  :: atomic { phase[e] == IDLE && cur[e] < lim && LIVING(e) != ALL -> STEP_OF(ATTACH, start_attach()) }
  :: atomic { (phase[e] == IDLE || phase[e] == ATTACHING || phase[e] == SEEDING) && FAULT &&
              memb[e] != 0 -> PAY; STEP_OF(DOWN, on_down()) }
  :: atomic { phase[e] == VOTING && ok[e] != 0 && ROUND_OVER(e) -> STEP_OF(VOTES, decide()) }
  :: atomic { phase[e] == VOTING && (view[e] & (~ok[e] | gone[e])) && ROUND_OVER(e) ->
       pay_deadline(); STEP_OF(VOTES, abort()) } /* too few, or suspect */
  :: atomic { phase[e] == VOTING && !(view[e] & (~ok[e] | gone[e])) && FAULT ->
       PAY; STEP_OF(VOTES, abort()) } /* the snapshot, which stages while receivers do, refuses */
  :: atomic { phase[e] == COMMITTING && ROUND_OVER(e) -> STEP_OF(ACKS, on_acks()) }
  :: atomic { phase[e] == ATTACHING && ROUND_OVER(e) -> STEP_OF(ATTACHED, on_attached()) }
  :: atomic { phase[e] == SEEDING && ROUND_OVER(e) -> STEP_OF(SEEDED, on_seeded()) }
#ifdef LIVE
  :: atomic { FAULT && phase[e] != IDLE && !late -> PAY; late = 1 }
  :: atomic { phase[e] == IDLE && done == 2 && LIVING(e) == ALL -> break }
#else
  :: atomic { phase[e] == IDLE && cur[e] == lim -> break }
#endif
  od
}
#endif

/* --- invariants, named as in docs/protocol.md; I4 to I6 stand where they can be broken ---------- */
#define SERVES(i) (tver[i] != NONE)
/* A live member of run e that obeys no other run yet. */
#define LIVE_MEMBER(e, i) ((LIVING(e) & BIT(i)) && rrun[i] == (e) + 1)
#define I1(e, i) \
  (!(phase[e] == IDLE && LIVE_MEMBER(e, i)) || \
   (SERVES(i) && trun[i] == (e) && tver[i] == snapv[e] && wt[i] == snap[e]))
#define I2(e, i) (!(LIVE_MEMBER(e, i) && SERVES(i) && trun[i] == (e)) || tver[i] >= snapv[e])
#define I3(i) (!SERVES(i) || wt[i] == content[X(trun[i], tver[i])])
#if NR > 1
#define SECOND 1
#else
#define SECOND 0
#endif
#define FOR_ALL(inv) \
  (inv(0, 0) && inv(0, SECOND) && inv(0, NR - 1) && inv(1, 0) && inv(1, SECOND) && inv(1, NR - 1))

proctype Monitor() {
end:
  if
  :: atomic { WATCHED(1) && !FOR_ALL(I1) -> VIOLATED(1) }
  :: atomic { WATCHED(2) && !FOR_ALL(I2) -> VIOLATED(2) }
  :: atomic { WATCHED(3) && !(I3(0) && I3(SECOND) && I3(NR - 1)) -> VIOLATED(3) }
  fi
}

#ifdef FREE
/* Whatever anybody might say, to one receiver, for ever: the receiver's whole relation. */
proctype Sender(byte e; byte lim) {
  byte x, t;
  do
  :: atomic { cur[e] < lim ->
       cur[e]++; x = X(e, cur[e]); STEP; val[x] = t;
       if
       :: kind[x] = DELTA; tgt[x] = cur[e]; mask[x] = 3;
          do :: base[x] + 1 < cur[e] -> base[x]++ :: break od
       :: kind[x] = ATTACH; mask[x] = 3; do :: tgt[x] + 1 < cur[e] -> tgt[x]++ :: break od
       :: kind[x] = FULL; mask[x] = 3; do :: tgt[x] + 1 < cur[e] -> tgt[x]++ :: break od
       :: kind[x] = CATCH; mask[x] = 3; do :: tgt[x] + 1 < cur[e] -> tgt[x]++ :: break od
       fi;
       first[x] = ALL;
       if
       :: kind[x] == DELTA -> commit[x] = ALL; abrt[x] = ALL; redo[x] = 255
       :: else
       fi;
       x = 0; t = 0 }
  :: cur[e] == lim -> break
  od
}
#endif

init {
  atomic { /* run 0 with everybody attached */
    byte j;
    for (j : 0 .. NR - 1) { rrun[j] = 1; ph[j] = SERVING }
    j = 0;
    memb[0] = ALL; phase[0] = IDLE;
#ifdef BEHIND /* or out, three of them, who lack two steps, one, and none */
    memb[0] = 0;
    for (j : 0 .. NR - 1) { ph[j] = OUT; tver[j] = NONE; trun[j] = 0 }
    j = 0;
    wt[0] = 1; wt[1] = 2; wt[2] = 0;
    since[0] = 0; since[1] = 4 | 3; since[2] = 4 | 2;
#endif
#ifndef FREE
    run Monitor();
#endif
    run Receiver(0);
#if NR > 1
    run Receiver(1);
#endif
#if NR > 2
    run Receiver(2);
#endif
    run Sender(0, LIM0);
#if LIM1 > 0
    run Sender(1, LIM1);
#endif
  }
}
