/* The transition relation of protocol.pml, printed: included by it.
 *
 * -DRELATION: every transition leaves a line that names what about it an observer of the real
 * actors can see too; pan prints the set of them when it ends. sim/relation.cpp computes the same
 * words from real steps.
 *
 *   receiver EVENT FENCE PHASE SLOT TAG ATTACH > FENCE PHASE SLOT TAG ATTACH REPLY
 *   join ROUND WHOSE REPLY > yes|no|doubt|-                       for each answer given: as what it counts
 *   sender EVENT PHASE > PHASE ANSWER in|out > in|out SENT       for each participant
 *   sender EVENT PHASE > PHASE advanced|same some|nobody          for all of them: votes, acks
 *
 * Everything about a receiver is relative to the transaction of the event.
 */
#ifdef RELATION
int was;     /* the event and what it found */
byte said;   /* the answer given */
bool quotes; /* the round that is under way */
byte heard_of; /* whether the receiver is asked in that round, and what it has answered, as bits */
byte s_phase, s_memb, s_view, s_asked, s_ok, s_bad, s_doubt, s_snapv, heard, sent;
#define SAID_ok 1
#define SAID_bad 2
#define SAID_doubt 3
#define SAY(set, e, s, r) said = SAID_##set; quotes = phase[e] != 0 && ASKS(e, s, r)
#define HEARD(who) ; heard = who
#define SENDS(who) sent = who
#define START c_code { rel_start(PReceiver->i); }
#define BEFORE(x, event) c_code { rel_before(PReceiver->i, x, #event); }
#define AFTER(x) c_code { rel_after(PReceiver->i, x); }
#define STEP_OF(event, what) \
  c_code { rel_sender_before(PSender->e); }; what; c_code { rel_sender_after(PSender->e, #event); }
#define OWN(event, what) \
  c_code { rel_before(PReceiver->i, PReceiver->w, #event); }; what; \
  c_code { rel_after(PReceiver->i, PReceiver->w); }; w = 0; CANON
c_decl {
  \#include <stdio.h>
  \#include <stdlib.h>
  \#include <string.h>
};
c_code {
  static char *rel_lines[4096];
  static int rel_count;
  static void rel_print(void) {
    int i;
    for (i = 0; i < rel_count; i++) printf("relation: %s\n", rel_lines[i]);
  }
  static void rel_note(const char *line) {
    int i;
    if (rel_count == 0) atexit(rel_print);
    for (i = 0; i < rel_count; i++)
      if (strcmp(rel_lines[i], line) == 0) return;
    if (rel_count == 4096) abort();
    rel_lines[rel_count++] = strdup(line);
  }
  static const char *rel_events[] = {"PREPARE", "MISFIT", "ATTACH", "FULL", "COMMIT", "ABORT", "REDO",
                                     "DIGEST", "STAGED", "CHECKED", "WRITTEN", "EXPIRED",
                                     "COMMIT_MISFIT", "CATCH", "CATCH_MISFIT", "PROVEN", 0};
  static const char *rel_names[] = {"prepare", "prepare-misfit", "attach", "full", "commit", "abort",
                                    "redo", "digest", "staged", "checked", "written", "expired",
                                    "commit-misfit", "catch-up", "catch-up-misfit", "proven"};
  static const char *rel_fence[] = {"newrun", "ahead", "current", "behind", "oldrun"};
  static const char *rel_phase[] = {"out", "serving", "writing"};
  static const char *rel_slot[] = {"none", "other", "arriving", "staged", "redo", "full"};
  static const char *rel_tag[] = {"none", "target", "kin", "alien"};
  static const char *rel_att[] = {"none", "mine", "other"};

  /* What receiver i is to transaction x. */
  static int rel_alpha(int i, int x) {
    int e = x / NS, s = x % NS, fence, sl, tag, att;
    if (now.rrun[i] != e + 1) fence = now.rrun[i] < e + 1 ? 0 : 4;
    else fence = now.rseq[i] < s ? 1 : now.rseq[i] == s ? 2 : 3;
    if (now.slot[i] == 0) sl = 0;
    else if (now.slot[i] != x) sl = 1;
    else if (now.ph[i] == WRITING && now.kind[x] == FULL) sl = 5;
    else if (now.srnd[i] > 1) sl = 4;
    else sl = now.arr[i] ? 2 : 3;
    if (now.tver[i] == NONE) tag = 0;
    else if (now.trun[i] != e) tag = 3;
    else tag = now.tver[i] == now.tgt[x] ? 1 : 2;
    att = now.att[i] == 0 ? 0 : now.att[i] == x ? 1 : 2;
    return fence + 5 * (now.ph[i] + 3 * (sl + 6 * (tag + 4 * att)));
  }
  static void rel_state(char *out, int a) {
    sprintf(out, "%s %s %s %s %s", rel_fence[a % 5], rel_phase[a / 5 % 3], rel_slot[a / 15 % 6],
            rel_tag[a / 90 % 4], rel_att[a / 360]);
  }
  static int rel_heard(int i, int e) {
    int b = 1 << i;
    return !!(now.asked[e] & b) + 2 * !!(now.ok[e] & b) + 4 * !!(now.bad[e] & b) +
           8 * !!(now.doubt[e] & b);
  }
  static void rel_before(int i, int x, const char *event) {
    int n = 0, fits = now.ph[i] == SERVING && now.trun[i] == x / NS && now.tver[i] == now.base[x];
    while (rel_events[n] && strcmp(rel_events[n], event)) n++;
    if (n == 0 && !fits) n = 1;
    if (n == 13 && !now.lacks[i]) n = 14;
    now.was = n + 16 * rel_alpha(i, x);
    now.said = now.quotes = 0;
    now.heard_of = rel_heard(i, x / NS);
  }
  /* The sender's join, which the model has in the sender, as it hears an answer. */
  static void rel_join(int i, int e, const char *reply) {
    static const char *rounds[] = {"none", "none", "vote", "commit", "attach", "full"};
    int more = rel_heard(i, e) & ~now.heard_of;
    const char *round = now.phase[e] == COMMITTING && now.rnd[e] > 1 ? "redo" : rounds[now.phase[e]];
    const char *whose = !now.quotes ? "other" : !(now.heard_of & 1) ? "stranger"
                        : now.heard_of > 1 ? "answered" : "asked";
    char line[120];
    sprintf(line, "join %s %s %s > %s", round, whose, now.quotes ? reply : "any",
            more & 2 ? "yes" : more & 4 ? "no" : more & 8 ? "doubt" : "-");
    rel_note(line);
  }
  static void rel_after(int i, int x) {
    static const char *words[][4] = {{"-", "attached", "need_full", "?"},
                                     {"-", "full_ok", "full_fail", "?"},
                                     {"-", "vote_yes", "vote_no", "doubt"},
                                     {"-", "ack", "nack", "?"}};
    char from[80], to[80], line[240];
    int n = now.was % 16, a = now.was / 16, b = rel_alpha(i, x);
    int family = now.kind[x] == ATTACH ? 0 : now.kind[x] == FULL || now.kind[x] == CATCH ? 1 : n < 2 || n == 8 ? 2 : 3;
    rel_state(from, a);
    rel_state(to, b);
    sprintf(line, "receiver %s %s > %s %s", rel_names[n], from, to, words[family][now.said]);
    if (a != b || now.said) rel_note(line);
    if (now.said) rel_join(i, x / NS, words[family][now.said]);
    now.was = now.said = now.quotes = now.heard_of = 0;
  }

  static void rel_start(int i) { /* a new life: the same to every transaction */
    char to[80], line[120];
    rel_state(to, rel_alpha(i, X(0, 1)));
    sprintf(line, "receiver start > %s", to);
    rel_note(line);
  }

  static void rel_sender_before(int e) {
    now.s_phase = now.phase[e]; now.s_memb = now.memb[e]; now.s_view = now.view[e];
    now.s_asked = now.asked[e]; now.s_snapv = now.snapv[e];
    now.s_ok = now.ok[e]; now.s_bad = now.bad[e]; now.s_doubt = now.doubt[e];
    now.heard = now.sent = 0;
  }
  static const char *rel_answer(const char *event, int i) {
    int b = 1 << i;
    int acks = !strcmp(event, "ACKS");
    const char *word = !(now.s_view & b) || !strcmp(event, "DOWN") ? "-" : !(now.s_asked & b) ? "earlier"
                       : now.s_ok & b ? "yes" : now.s_bad & b ? "no"
                       : now.s_doubt & b ? "doubt" : "silent";
    if (word[0] == '-' || !(now.heard & b)) return word;
    return !acks || word[0] == 'y' || word[0] == 'e' ? "dead" : word;
  }
  static void rel_sender_after(int e, const char *event) {
    static const char *phases[] = {"?", "idle", "voting", "committing", "attaching", "seeding"};
    static const char *events[][2] = {{"SYNC", "sync"}, {"TOO_FEW", "too_few"}, {"ATTACH", "attach"},
      {"DOWN", "down"}, {"VOTES", "votes"}, {"ACKS", "acks"}, {"ATTACHED", "attached"},
      {"SEEDED", "seeded"}};
    char head[80], line[240];
    const char *name = "?", *what;
    int i, n = 0;
    while (strcmp(events[n][0], event)) n++;
    name = events[n][1];
    sprintf(head, "sender %s %s > %s", name, phases[now.s_phase], phases[now.phase[e]]);
    what = !strcmp(name, "sync") ? "prepare" : !strcmp(name, "attach") ? "attach"
           : !strcmp(name, "attached") || !strcmp(name, "seeded") ? "full" : now.phase[e] == IDLE ? "abort"
           : !strcmp(name, "acks") ? "redo" : "commit";
    for (i = 0; i < NR; i++) {
      int b = 1 << i;
      const char *answer = rel_answer(event, i);
      sprintf(line, "%s %s %s > %s %s", head, answer, now.s_memb & b ? "in" : "out",
              now.memb[e] & b ? "in" : "out", now.sent & b ? what : "-");
      if (answer[0] != '-' || ((now.s_memb ^ now.memb[e]) & b) || (now.sent & b)) rel_note(line);
    }
    if (!strcmp(name, "votes") || !strcmp(name, "acks") || now.s_snapv != now.snapv[e]) {
      sprintf(line, "%s %s %s", head, now.s_snapv != now.snapv[e] ? "advanced" : "same",
              now.s_view & now.memb[e] ? "some" : "nobody");
      rel_note(line);
    }
    now.s_phase = now.s_memb = now.s_view = now.s_asked = now.s_snapv = 0;
    now.s_ok = now.s_bad = now.s_doubt = now.heard = now.sent = 0;
  }
};
#else
#define SAY(set, e, s, r) skip
#define HEARD(who)
#define SENDS(who) skip
#define START skip
#define BEFORE(x, event) skip
#define AFTER(x) skip
#define STEP_OF(event, what) what
#define OWN(event, what) what; w = 0; CANON
#endif
