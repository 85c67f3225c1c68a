/* Flight records as lockstep blame reads them: up to three files of a --dump-dir, with zero bytes
 * between. What they say of the ranks is compared, whoever is suspected. */
#include "fuzz.h"

#include <string.h>

#include "cli/dump_read.h"
#include "rpc/blame.h"

enum { MAX_FILES = 3, MAX_RANKS = 8 };

static void put_files(struct fuzz_input in) {
    for (int i = 0; i < MAX_FILES; i++) {
        char name[40];
        snprintf(name, sizeof name, "flight-rank%d.json", i);
        struct fuzz_input file = fuzz_part(&in);
        if (file.size > 0) {
            fuzz_put(name, file.data, file.size, 0);
        } else {
            fuzz_drop(name);
        }
    }
}

/* As the command does: the last collective of each. */
static struct blame_rank rank_of(const struct dump *d) {
    struct blame_rank r = {.known = d->known, .state = d->state, .rpc = d->rpc};
    r.entries = d->known ? d->entries : NULL;
    r.n_entry = d->n_entry;
    for (int i = 0; i < d->n_entry; i++) {
        if (d->entries[i].kind == FLIGHT_COLLECTIVE) {
            r.collective = d->entries[i];
        }
    }
    return r;
}

static void compare(const struct dump_set *s) {
    struct blame_rank ranks[MAX_RANKS];
    int world = s->world < MAX_RANKS ? s->world : MAX_RANKS;
    for (int r = 0; r < world; r++) {
        char text[BLAME_ENTRY_SIZE];
        ranks[r] = rank_of(&s->dumps[r]);
        fuzz_message(blame_entry_text(&ranks[r].collective, text));
    }
    for (int suspect = -1; suspect < world; suspect++) {
        struct error err = {0};
        if (blame_find(ranks, world, suspect, &err)) {
            FUZZ_CHECK(err.has_rank && err.rank >= 0 && err.rank < world);
            fuzz_result(false, &err);
        }
    }
}

void fuzz_one(struct fuzz_input in) {
    struct dump_set s;
    struct error err = {0};
    put_files(in);
    if (fuzz_result(dump_set_read(&s, fuzz_dir(), &err), &err)) {
        FUZZ_CHECK(s.world > 0 && s.world <= DUMP_WORLD_MAX);
        compare(&s);
        for (int i = 0; i < s.n_ignored; i++) {
            fuzz_message(s.ignored[i].why);
        }
        dump_set_finish(&s);
    }
}
