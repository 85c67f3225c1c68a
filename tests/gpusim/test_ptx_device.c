#include "test_ptx.h"

uint8_t *ptx_test_used;

struct ptx_module *make_module(const char *text) {
    const size_t n = (size_t)ptx_opcode_count();
    struct ptx_module *m = NULL;
    char error[512] = "";

    if (ptx_test_used == NULL) {
        ptx_test_used = calloc(n, 1);
    }
    if (!ptx_module_create(&m, text, strlen(text), error, sizeof(error))) {
        fail_msg("%s", error);
    }
    for (size_t i = 0; i < n; i++) {
        ptx_test_used[i] |= m->used[i];
    }
    return m;
}

uint64_t device_alloc(struct device *d, size_t bytes, bool written) {
    struct ptx_block *b = &d->blocks[d->n_block++];

    assert_true(d->n_block <= 8);
    *b = (struct ptx_block){.address = (uint64_t)d->n_block << 32,
                            .bytes = bytes,
                            .data = calloc(bytes, 1),
                            .written = calloc(bytes, 1)};
    if (written) {
        memset(b->written, 1, bytes);
    }
    return b->address;
}

static const struct ptx_block *find(void *user, uint64_t address) {
    struct device *d = user;

    for (int i = 0; i < d->n_block; i++) {
        if (d->blocks[i].data != NULL && address - d->blocks[i].address < d->blocks[i].bytes) {
            return &d->blocks[i];
        }
    }
    return NULL;
}

void *device_data(struct device *d, uint64_t address) {
    const struct ptx_block *b = find(d, address);

    assert_non_null(b);
    return b->data + (address - b->address);
}

void device_free(struct device *d) {
    for (int i = 0; i < d->n_block; i++) {
        free(d->blocks[i].data);
        free(d->blocks[i].written);
    }
    *d = (struct device){0};
}

static void finding(void *user, const char *line) {
    struct device *d = user;

    assert_true(d->n_finding < 32);
    snprintf(d->findings[d->n_finding++], sizeof(d->findings[0]), "%s", line);
}

struct ptx_host device_host(struct device *d) {
    return (struct ptx_host){.user = d, .find = find, .finding = finding};
}

enum ptx_result device_run(struct device *d, const struct ptx_module *m, const char *kernel,
                           unsigned grid, unsigned block, size_t dynamic_shared,
                           const void *params) {
    const struct ptx_launch launch = {.grid = {grid, 1, 1},
                                      .block = {block, 1, 1},
                                      .dynamic_shared = dynamic_shared,
                                      .params = params,
                                      .check = true};
    const struct ptx_host host = device_host(d);
    const struct ptx_kernel *k = ptx_module_find(m, kernel);

    assert_non_null(k);
    return ptx_run(k, &launch, &host);
}

enum ptx_result run_text(struct device *d, const char *text, unsigned grid, unsigned block,
                         const void *params) {
    struct ptx_module *m = make_module(text);
    const enum ptx_result result = device_run(d, m, "k", grid, block, 0, params);

    ptx_module_destroy(m);
    return result;
}

bool found(const struct device *d, const char *const *words) {
    for (int i = 0; i < d->n_finding; i++) {
        bool all = true;

        for (const char *const *w = words; *w != NULL; w++) {
            all = all && strstr(d->findings[i], *w) != NULL;
        }
        if (all) {
            return true;
        }
    }
    return false;
}

void assert_no_findings(const struct device *d) {
    if (d->n_finding > 0) {
        fail_msg("finding: %s", d->findings[0]);
    }
}

void assert_opcodes_used(bool (*wanted)(const char *name)) {
    int n_missing = 0;

    for (int i = 0; i < ptx_opcode_count(); i++) {
        if (wanted(ptx_opcode_name(i)) && !ptx_test_used[i]) {
            print_error("no test of %s\n", ptx_opcode_name(i));
            n_missing++;
        }
    }
    assert_int_equal(n_missing, 0);
}
