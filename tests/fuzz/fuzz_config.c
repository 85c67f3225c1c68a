/* config.json, a zero byte, and generation_config.json (none: it is not there). What is accepted
 * goes through the arithmetic that sizes a shard, for several numbers of ranks. */
#include "fuzz.h"

#include <string.h>

#include "model/config.h"
#include "model/footprint.h"
#include "model/sampler.h"

static void check(const struct model_config *c) {
    FUZZ_CHECK(memchr(c->arch_name, 0, sizeof c->arch_name));
    FUZZ_CHECK(c->hidden > 0 && c->intermediate > 0 && c->n_layer > 0 && c->n_head > 0);
    FUZZ_CHECK(c->n_kv_head > 0 && c->head_dim > 0 && c->vocab > 0 && c->max_positions > 0);
    FUZZ_CHECK(c->n_eos >= 0 && c->n_eos <= MODEL_MAX_EOS);
    for (int i = 0; i < c->n_eos; i++) {
        FUZZ_CHECK(c->eos[i] >= 0 && c->eos[i] < c->vocab);
    }
    struct error err = {0};
    struct sampling s = sampling_recommended(c);
    FUZZ_CHECK(fuzz_result(sampling_validate(&s, &err), &err));
}

static void size_shard(const struct model_config *c, int world, int rank) {
    struct shard shard;
    struct error err = {0};
    struct shard_dims dims = footprint_dims(c);
    if (!fuzz_result(shard_compute(&shard, &dims, world, rank, &err), &err)) {
        FUZZ_CHECK(world > c->n_head);
        return;
    }
    struct footprint_params p = {.dtype = c->dtype,
                                 .ctx = c->max_positions,
                                 .n_block = c->max_positions / 64 + 1,
                                 .max_tok = 512,
                                 .max_logits = 64,
                                 .one_sum = rank % 2};
    struct footprint f = footprint_of_shard(c, &shard, &p);
    uint64_t sum;
    bool over = __builtin_add_overflow(f.weights, f.kv, &sum) ||
                __builtin_add_overflow(sum, f.buffers, &sum);
    FUZZ_CHECK(footprint_total(&f) == (over ? UINT64_MAX : sum));
}

static void size_shards(const struct model_config *c) {
    static const int worlds[] = {1, 2, 3, 8, 1024};
    for (size_t i = 0; i < sizeof worlds / sizeof worlds[0]; i++) {
        size_shard(c, worlds[i], 0);
        size_shard(c, worlds[i], worlds[i] - 1);
    }
}

void fuzz_one(struct fuzz_input in) {
    size_t size = in.size;
    struct fuzz_input config = fuzz_part(&in);
    struct model_config c;
    struct error err = {0};
    fuzz_put("config.json", config.data, config.size, 0);
    if (config.size < size) {
        fuzz_put("generation_config.json", in.data, in.size, 0);
    } else {
        fuzz_drop("generation_config.json");
    }
    if (fuzz_result(model_config_load(&c, fuzz_dir(), &err), &err)) {
        check(&c);
        size_shards(&c);
    }
}
