/* What the tests of the API's text share: a model, and bodies for it. */
#pragma once

#include "serve/api.h"

#define MESSAGES   "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"
#define CHAT(more) "{" MESSAGES more "}"
#define TEXT(more) "{\"prompt\":\"Hi\"" more "}"

/* "tiny", with the tokenizer of tests/data/tiny-qwen3 and api_case_sampling. */
extern struct api_model api_case_model;
/* What OpenAI's API has where nothing is said. */
extern const struct sampling api_case_sampling;

/* Makes the model, and ends it: for cmocka_run_group_tests. */
int api_case_start(void **state);
int api_case_finish(void **state);

/* Reads a body that has to be fine. */
void api_case_parse(struct api_request *q, enum api_kind kind, const char *body);
