/* Who fits into what is free, alone and together, and what would fit instead. */
#include "test.h"

#include <stdio.h>
#include <string.h>

#include "leader/fit.h"

enum { WORLD = 4 };
static const uint64_t GIB = 1ull << 30, NONE = UINT64_MAX;

/* Four ranks that need a GiB each, two on each of two hosts, with nothing that limits them. */
static void set_up(struct fit_rank *ranks) {
    for (int r = 0; r < WORLD; r++) {
        ranks[r] = (struct fit_rank){.host = r < 2 ? "node1" : "node2",
                                     .needs = {GIB / 2, GIB / 4, GIB / 4},
                                     .own = NONE,
                                     .group = NONE,
                                     .group_id = 7,
                                     .all = NONE};
    }
}

static void assert_lacks(const struct fit_rank *ranks, int first, int n_rank, uint64_t available) {
    struct fit_lack lack = {0};
    assert_false(fit_holds(ranks, WORLD, 1, &lack));
    assert_int_equal(lack.first, first);
    assert_int_equal(lack.n_rank, n_rank);
    assert_int_equal(lack.available, available);
    assert_int_equal(footprint_total(&lack.needs), (uint64_t)n_rank * GIB);
    assert_int_equal(lack.needs.weights, (uint64_t)n_rank * GIB / 2);
}

/* Sums that are too large to be told are too large to fit. */
static void sums_saturate(void **state) {
    (void)state;
    struct fit_rank ranks[WORLD];
    set_up(ranks);
    ranks[0].all = ranks[1].all = 1ull << 60;
    ranks[0].needs.kv = ranks[1].needs.kv = NONE / 2;
    assert_false(fit_holds(ranks, WORLD, 1, NULL));
    ranks[0].needs.kv = ranks[1].needs.kv = GIB;
    assert_true(fit_holds(ranks, WORLD, 1, NULL));
    ranks[0].needs.weights = NONE;
    assert_false(fit_holds(ranks, WORLD, 1, NULL));
}

static void a_limit_of_one_rank(void **state) {
    (void)state;
    struct fit_rank ranks[WORLD];
    set_up(ranks);
    assert_true(fit_holds(ranks, WORLD, 1, NULL));
    ranks[2].own = GIB;
    assert_true(fit_holds(ranks, WORLD, 1, NULL));
    assert_false(fit_holds(ranks, WORLD, 0.99, NULL));
    ranks[2].own = GIB - 1;
    assert_lacks(ranks, 2, 1, GIB - 1);
}

static void ranks_of_a_host_share_its_memory(void **state) {
    (void)state;
    struct fit_rank ranks[WORLD];
    set_up(ranks);
    for (int r = 0; r < WORLD; r++) {
        ranks[r].all = 2 * GIB;
    }
    assert_true(fit_holds(ranks, WORLD, 1, NULL));
    ranks[3].all = 2 * GIB - 1; /* the one that has looked last sees less */
    assert_lacks(ranks, 2, 2, 2 * GIB - 1);
    /* What one needs more the other may need less. */
    ranks[2].needs.kv -= 1;
    assert_true(fit_holds(ranks, WORLD, 1, NULL));
}

static void groups_are_those_of_a_host(void **state) {
    (void)state;
    struct fit_rank ranks[WORLD];
    set_up(ranks);
    for (int r = 0; r < WORLD; r++) {
        ranks[r].group = GIB + 5;
        ranks[r].group_id =
            (uint64_t)(r % 2); /* each rank its own: the same numbers on both hosts */
    }
    assert_true(fit_holds(ranks, WORLD, 1, NULL));
    ranks[1].group_id = 0;
    assert_lacks(ranks, 0, 2, GIB + 5);
    assert_int_equal(fit_part(ranks, WORLD, 1), (GIB + 5) / 2);
    assert_int_equal(fit_part(ranks, WORLD, 3), GIB + 5);
    ranks[3].all = 3;
    assert_int_equal(fit_part(ranks, WORLD, 3), 1); /* with rank 2 */
}

static void the_table_has_every_rank_and_who_lacks_what(void **state) {
    (void)state;
    struct fit_rank ranks[WORLD];
    struct buffer table = {0};
    struct error err = {0};
    set_up(ranks);
    ranks[2].all = ranks[3].all = 3 * GIB / 2;
    assert_ok(fit_table(ranks, WORLD, &table, &err) && buffer_append(&table, "", 1, &err), &err);
    assert_string_equal(
        (const char *)table.data,
        "      rank  host                 weights    KV cache     buffers         sum        free\n"
        "         0  node1              512.0 MiB   256.0 MiB   256.0 MiB     1.0 GiB           -\n"
        "         1  node1              512.0 MiB   256.0 MiB   256.0 MiB     1.0 GiB           -\n"
        "         2  node2              512.0 MiB   256.0 MiB   256.0 MiB     1.0 GiB     1.5 GiB\n"
        "         3  node2              512.0 MiB   256.0 MiB   256.0 MiB     1.0 GiB     1.5 GiB\n"
        "   2 ranks  node2                1.0 GiB   512.0 MiB   512.0 MiB     2.0 GiB     1.5 GiB"
        "  does not fit\n");
    buffer_finish(&table);
}

/* ---- what would fit ---- */

/* Qwen3-0.6B for a server: eight contexts of 4096, steps of eight sequences and 256 tokens. */
static struct model_needs needs_of(int n_block) {
    return (struct model_needs){.config = {.arch = MODEL_ARCH_QWEN3,
                                           .hidden = 1024,
                                           .intermediate = 3072,
                                           .n_layer = 28,
                                           .n_head = 16,
                                           .n_kv_head = 8,
                                           .head_dim = 128,
                                           .vocab = 151936,
                                           .max_positions = 40960,
                                           .tied = true,
                                           .qk_norm = true},
                                .sizes = {.dtype = DTYPE_BF16,
                                          .ctx = 4096,
                                          .n_block = n_block,
                                          .max_tok = 264,
                                          .max_logits = 32}};
}

static uint64_t total(const struct model_needs *needs, int world, int rank,
                      const struct footprint_params *sizes) {
    struct shard_dims dims = footprint_dims(&needs->config);
    struct shard s;
    struct error err = {0};
    assert_ok(shard_compute(&s, &dims, world, rank, &err), &err);
    struct footprint f = footprint_of_shard(&needs->config, &s, sizes);
    return footprint_total(&f);
}

/* Two ranks of one host with so much free; as FIT_SHARE leaves of it what is asked for. */
static void free_for_two(struct fit_rank *ranks, uint64_t bytes) {
    set_up(ranks);
    ranks[0].all = ranks[1].all = (uint64_t)((double)bytes / FIT_SHARE) + 2;
}

static uint64_t both(const struct model_needs *needs, const struct footprint_params *sizes) {
    return total(needs, 2, 0, sizes) + total(needs, 2, 1, sizes);
}

static void advice_is_the_nearest_that_fits(void **state) {
    (void)state;
    struct model_needs needs = needs_of(64);
    struct fit_rank ranks[WORLD];
    struct footprint_params less = needs.sizes;
    char advice[200];

    less.ctx = 2048;
    less.n_block = 32;
    free_for_two(ranks, both(&needs, &less));
    fit_advise(&needs, ranks, 2, 0, advice, sizeof advice);
    assert_non_null(strstr(advice, "; fits with --ctx 2048 or on "));
    free_for_two(ranks, both(&needs, &less) - 100);
    fit_advise(&needs, ranks, 2, 0, advice, sizeof advice);
    assert_non_null(strstr(advice, "; fits with --ctx 1984 or on "));

    less = needs.sizes;
    less.max_tok = 256 + 3;
    free_for_two(ranks, both(&needs, &less));
    fit_advise(&needs, ranks, 2, 8, advice, sizeof advice);
    assert_non_null(strstr(advice, ", with --max-batch 3 or on "));
    fit_advise(&needs, ranks, 2, 0, advice, sizeof advice);
    assert_null(strstr(advice, "--max-batch")); /* it has no such option */

    free_for_two(ranks, 1000);
    fit_advise(&needs, ranks, 2, 8, advice, sizeof advice);
    assert_string_equal(advice, "");
}

/* The host's cache may be half as large; a GPU's is what it is. */
static void advice_names_a_narrower_cache(void **state) {
    (void)state;
    struct model_needs needs = needs_of(64);
    struct fit_rank ranks[WORLD];
    struct footprint_params less = needs.sizes;
    const struct host_options host = {.n_thread = 1};
    struct device *d;
    struct error err = {0};
    char advice[200];

    assert_ok(host_device_create(&host, &d, &err), &err);
    needs.sizes.device = d;
    less.kv = DTYPE_BF16;
    free_for_two(ranks, both(&needs, &less));
    fit_advise(&needs, ranks, 2, 0, advice, sizeof advice);
    assert_non_null(strstr(advice, "; fits with --ctx 2048, with --kv-dtype bf16 or on "));
    free_for_two(ranks, both(&needs, &less) - 100);
    fit_advise(&needs, ranks, 2, 0, advice, sizeof advice);
    assert_null(strstr(advice, "--kv-dtype"));

    free_for_two(ranks, both(&needs, &less));
    d->kv_bf16 = false;
    fit_advise(&needs, ranks, 2, 0, advice, sizeof advice);
    assert_null(strstr(advice, "--kv-dtype"));
    device_destroy(d);
}

/* More ranks, each with what the poorest has here. */
static void more_ranks_divide_the_weights(void **state) {
    (void)state;
    struct model_needs needs = needs_of(64);
    struct fit_rank ranks[WORLD];
    char advice[200], want[80];
    uint64_t most = 0;
    for (int r = 0; r < 5; r++) {
        uint64_t bytes = total(&needs, 5, r, &needs.sizes);
        most = bytes > most ? bytes : most;
    }
    free_for_two(ranks, 2 * most);
    fit_advise(&needs, ranks, 2, 0, advice, sizeof advice);
    snprintf(want, sizeof want, "on %d ranks with as much memory each", 5);
    assert_non_null(strstr(advice, want));
}

static void the_cache_is_cut_to_what_fits(void **state) {
    (void)state;
    struct model_needs needs = needs_of(8 * 64);
    struct fit_rank ranks[WORLD];
    struct footprint_params less = needs.sizes;
    less.n_block = 100;
    free_for_two(ranks, both(&needs, &less));
    assert_int_equal(fit_blocks(&needs, ranks, 2), 100);
    free_for_two(ranks, both(&needs, &needs.sizes));
    assert_int_equal(fit_blocks(&needs, ranks, 2), 512);
    free_for_two(ranks, 1000);
    assert_int_equal(fit_blocks(&needs, ranks, 2), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_saturate),
        cmocka_unit_test(a_limit_of_one_rank),
        cmocka_unit_test(ranks_of_a_host_share_its_memory),
        cmocka_unit_test(groups_are_those_of_a_host),
        cmocka_unit_test(the_table_has_every_rank_and_who_lacks_what),
        cmocka_unit_test(advice_is_the_nearest_that_fits),
        cmocka_unit_test(advice_names_a_narrower_cache),
        cmocka_unit_test(more_ranks_divide_the_weights),
        cmocka_unit_test(the_cache_is_cut_to_what_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
