#include "serve/served.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/config.h"

bool served_create(struct served **out, const char *dir, const char *name, struct error *err) {
    struct model_config config;
    struct served *m = calloc(1, sizeof *m);
    if (!m) {
        return error_set(err, ERROR_MEMORY, "cannot allocate a model");
    }
    atomic_init(&m->n_ref, 1);
    bool ok = strlen(name) < sizeof m->name ||
              error_set(err, ERROR_USAGE, "the model's name is longer than %zu bytes",
                        sizeof m->name - 1);
    ok = ok && model_config_load(&config, dir, err) &&
         tokenizer_load(&m->tokenizer, dir, config.vocab, err);
    if (!ok) {
        served_release(m);
        return false;
    }
    snprintf(m->name, sizeof m->name, "%s", name);
    m->api = (struct api_model){.name = m->name,
                                .tokenizer = m->tokenizer,
                                .created = (int64_t)time(NULL),
                                .sampling = sampling_recommended(&config)};
    *out = m;
    return true;
}

void served_hold(struct served *m) {
    atomic_fetch_add(&m->n_ref, 1);
}

void served_release(struct served *m) {
    if (m && atomic_fetch_sub(&m->n_ref, 1) == 1) {
        tokenizer_destroy(m->tokenizer);
        free(m);
    }
}
