/* Every leaf, row and column of a model belongs to exactly one rank, whatever the world's size. */
#include "test.h"

#include <stdio.h>
#include <string.h>

#include "nn/shard.h"

static const struct shard_dims models[] = {
    {.n_head = 16, .n_kv_head = 8, .head_dim = 128, .intermediate = 3072, .vocab = 151936},
    {.n_head = 9, .n_kv_head = 3, .head_dim = 64, .intermediate = 1536, .vocab = 49152},
    {.n_head = 14, .n_kv_head = 2, .head_dim = 64, .intermediate = 4864, .vocab = 151936},
    {.n_head = 64, .n_kv_head = 8, .head_dim = 128, .intermediate = 25600, .vocab = 151936},
    {.n_head = 40, .n_kv_head = 40, .head_dim = 128, .intermediate = 13824, .vocab = 32001},
    {.n_head = 4, .n_kv_head = 2, .head_dim = 16, .intermediate = 176, .vocab = 1000},
    {.n_head = 8, .n_kv_head = 1, .head_dim = 32, .intermediate = 33, .vocab = 7},
    {.n_head = 12, .n_kv_head = 4, .head_dim = 2, .intermediate = 1, .vocab = 1},
    {.n_head = 1, .n_kv_head = 1, .head_dim = 8, .intermediate = 100, .vocab = 10},
    {.n_head = 1024, .n_kv_head = 32, .head_dim = 64, .intermediate = 4194304, .vocab = 16777216},
};
enum { N_MODEL = sizeof models / sizeof models[0] };

static void for_every_world(void (*check)(const struct shard_dims *, const struct shard *, int)) {
    static struct shard shards[1024];
    for (int m = 0; m < N_MODEL; m++) {
        int step = models[m].n_head > 100 ? 37 : 1;
        for (int world = 1; world <= models[m].n_head; world += step) {
            struct error err = {0};
            for (int r = 0; r < world; r++) {
                assert_ok(shard_compute(&shards[r], &models[m], world, r, &err), &err);
                assert_int_equal(shards[r].world, world);
                assert_int_equal(shards[r].rank, r);
            }
            check(&models[m], shards, world);
        }
    }
}

/* Consecutive runs that cover [0, n), so each once. */
static void check_cover(struct leaf_run run, int *next) {
    assert_int_equal(run.first, *next);
    assert_true(run.count >= 0);
    *next = run.first + run.count;
}

static void check_everything_once(const struct shard_dims *d, const struct shard *s, int world) {
    int heads = 0, mlp = 0, vocab = 0;
    for (int r = 0; r < world; r++) {
        check_cover(s[r].heads, &heads);
        check_cover(s[r].mlp, &mlp);
        check_cover(s[r].vocab, &vocab);
        assert_true(s[r].heads.count >= 1); /* MLP columns and vocabulary may be none */
    }
    assert_int_equal(heads, d->n_head);
    assert_int_equal(mlp, d->intermediate);
    assert_int_equal(vocab, d->vocab);
}

static void every_part_belongs_to_one_rank(void **state) {
    (void)state;
    for_every_world(check_everything_once);
}

/* Heads and vocabulary differ by at most one between ranks. */
static void check_even(const struct shard_dims *d, const struct shard *s, int world) {
    for (int r = 0; r < world; r++) {
        assert_in_range(s[r].heads.count, d->n_head / world, (d->n_head + world - 1) / world);
        assert_in_range(s[r].vocab.count, d->vocab / world, (d->vocab + world - 1) / world);
    }
}

static void runs_are_even(void **state) {
    (void)state;
    for_every_world(check_even);
}

/* KV heads: exactly those that some query head of the rank reads. */
static void check_kv(const struct shard_dims *d, const struct shard *s, int world) {
    int group = d->n_head / d->n_kv_head;
    for (int r = 0; r < world; r++) {
        for (int kv = 0; kv < d->n_kv_head; kv++) {
            bool has = kv >= s[r].kv_heads.first && kv < s[r].kv_heads.first + s[r].kv_heads.count;
            bool needs = false;
            for (int h = s[r].heads.first; h < s[r].heads.first + s[r].heads.count; h++) {
                needs = needs || h / group == kv;
            }
            assert_int_equal(has, needs);
        }
        if (d->n_kv_head % world == 0) { /* nothing is replicated where it divides */
            assert_int_equal(s[r].kv_heads.count, d->n_kv_head / world);
        }
    }
}

static void kv_heads_follow_query_heads(void **state) {
    (void)state;
    for_every_world(check_kv);
}

static void known_splits(void **state) {
    (void)state;
    struct shard s;
    struct error err = {0};
    /* 9 heads, 3 KV heads over 2: heads 0-4 and 5-8, so KV head 1 is on both. */
    assert_ok(shard_compute(&s, &models[1], 2, 0, &err), &err);
    assert_int_equal(s.heads.count, 5);
    assert_int_equal(s.kv_heads.first, 0);
    assert_int_equal(s.kv_heads.count, 2);
    assert_int_equal(s.mlp.count, 27 * 32); /* ceil(5 * 48 / 9) of 48 units */
    assert_ok(shard_compute(&s, &models[1], 2, 1, &err), &err);
    assert_int_equal(s.heads.first, 5);
    assert_int_equal(s.kv_heads.first, 1);
    assert_int_equal(s.kv_heads.count, 2);
    assert_int_equal(s.vocab.first, 24576);
    /* 33 columns are two units over 8 leaves: most are empty, the last is short. */
    int empty = 0, columns = 0;
    for (int l = 0; l < 8; l++) {
        int n = shard_mlp_bound(&models[6], l + 1) - shard_mlp_bound(&models[6], l);
        assert_true(n == 0 || n == 32 || n == 1);
        empty += n == 0;
        columns += n;
    }
    assert_int_equal(empty, 6);
    assert_int_equal(columns, 33);
}

/* Leaves are cut where the model says, not where the ranks do; only the last unit may be short. */
static void leaf_bounds_are_the_models(void **state) {
    (void)state;
    for (int m = 0; m < N_MODEL; m++) {
        const struct shard_dims *d = &models[m];
        assert_int_equal(shard_mlp_bound(d, 0), 0);
        assert_int_equal(shard_mlp_bound(d, d->n_head), d->intermediate);
        for (int l = 0; l < d->n_head; l++) {
            int bound = shard_mlp_bound(d, l);
            assert_true(bound <= shard_mlp_bound(d, l + 1));
            assert_true(bound % SHARD_UNIT == 0 || bound == d->intermediate);
        }
    }
}

/* The plans of a rank repeat the model's bounds and own each local leaf in one piece. */
static void check_plans(const struct shard_dims *d, const struct shard *s, int world) {
    static struct leaf_plan o, down;
    for (int r = 0; r < world; r++) {
        shard_plan_o(&o, d, &s[r]);
        shard_plan_down(&down, d, &s[r]);
        assert_int_equal(o.n_leaf, s[r].heads.count);
        assert_int_equal(down.n_leaf, s[r].heads.count);
        assert_int_equal(o.n_piece, down.n_piece);
        for (int l = 0; l <= o.n_leaf; l++) {
            assert_int_equal(o.bounds[l], l * d->head_dim);
            assert_int_equal(s[r].mlp.first + down.bounds[l],
                             shard_mlp_bound(d, s[r].heads.first + l));
        }
        assert_int_equal(down.bounds[down.n_leaf], s[r].mlp.count);
        int next = 0;
        for (int p = 0; p < o.n_piece; p++) {
            check_cover(o.pieces[p], &next);
            assert_true(o.pieces[p].count > 0);
            assert_int_equal(o.pieces[p].first, down.pieces[p].first);
        }
        assert_int_equal(next, o.n_leaf);
    }
}

static void plans_cover_the_rank(void **state) {
    (void)state;
    for_every_world(check_plans);
}

static void too_many_ranks_are_refused(void **state) {
    (void)state;
    struct shard s = {.world = -1};
    struct error err = {0};
    for (int m = 0; m < N_MODEL; m++) {
        char largest[64];
        int n = models[m].n_head;
        assert_false(shard_compute(&s, &models[m], n + 1, 0, &err));
        assert_int_equal(err.kind, ERROR_UNSUPPORTED);
        snprintf(largest, sizeof largest, "largest number of ranks is %d", n);
        assert_non_null(strstr(err.message, largest));
        assert_int_equal(s.world, -1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_belongs_to_one_rank), cmocka_unit_test(runs_are_even),
        cmocka_unit_test(kv_heads_follow_query_heads),    cmocka_unit_test(known_splits),
        cmocka_unit_test(leaf_bounds_are_the_models),     cmocka_unit_test(plans_cover_the_rank),
        cmocka_unit_test(too_many_ranks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
