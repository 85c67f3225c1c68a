/* A model as the server's requests see it: its tokenizer and its name. Threads share it, each with
 * a reference, so that a request outlives an unload. */
#pragma once

#include <stdatomic.h>

#include "serve/api.h"

enum { SERVED_MAX_NAME = 256 };

struct served {
    struct api_model api;        /* what requests are read against; points to the two below */
    struct tokenizer *tokenizer; /* owns */
    char name[SERVED_MAX_NAME];
    atomic_int n_ref;
};

/* Reads the tokenizer of the model in dir. One reference. Errors: those of model_config_load and
 * tokenizer_load, USAGE (the name is too long), MEMORY. */
bool served_create(struct served **out, const char *dir, const char *name, struct error *err);
void served_hold(struct served *m);
/* Accepts NULL. */
void served_release(struct served *m);
