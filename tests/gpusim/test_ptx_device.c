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

/* What no other program has is test_ptx_control.c's. */
static enum ptx_tested_by tested_by(const char *name) {
    static const struct {
        const char *name;
        enum ptx_tested_by by;
    } roots[] = {
        {"mov", PTX_BY_ROWS},        {"setp", PTX_BY_ROWS},       {"set", PTX_BY_ROWS},
        {"selp", PTX_BY_ROWS},       {"slct", PTX_BY_ROWS},       {"cvt", PTX_BY_ROWS},
        {"ld", PTX_BY_MEMORY},       {"ldu", PTX_BY_MEMORY},      {"st", PTX_BY_MEMORY},
        {"atom", PTX_BY_MEMORY},     {"red", PTX_BY_MEMORY},      {"cvta", PTX_BY_MEMORY},
        {"isspacep", PTX_BY_MEMORY}, {"cp", PTX_BY_MEMORY},       {"mma", PTX_BY_MEMORY},
        {"ldmatrix", PTX_BY_MEMORY}, {"stmatrix", PTX_BY_MEMORY}, {"movmatrix", PTX_BY_MEMORY},
        {"trap", PTX_BY_CHECKS},
    };

    for (size_t i = 0; i < sizeof(roots) / sizeof(roots[0]); i++) {
        if (strcmp(roots[i].name, name) == 0) {
            return roots[i].by;
        }
    }
    return strchr(name, '.') != NULL ? PTX_BY_ROWS : PTX_BY_CONTROL;
}

void assert_opcodes_used(enum ptx_tested_by by) {
    int n_missing = 0;

    for (int i = 0; i < ptx_opcode_count(); i++) {
        if (tested_by(ptx_opcode_name(i)) == by && !ptx_test_used[i]) {
            print_error("no test of %s\n", ptx_opcode_name(i));
            n_missing++;
        }
    }
    free(ptx_test_used);
    ptx_test_used = NULL;
    assert_int_equal(n_missing, 0);
}

void write_kernel(char *text, size_t size, const char *format, ...) {
    static const char begin[] = PTX_HEAD PTX_BEGIN;
    const size_t n = sizeof(begin) - 1;
    va_list args;
    int added;

    memcpy(text, begin, n);
    va_start(args, format);
    added = vsnprintf(text + n, size - n, format, args);
    va_end(args);
    assert_true(n + (size_t)added + sizeof(PTX_END) <= size);
    strcpy(text + n + added, PTX_END);
}

const uint32_t *run_kernel(const char *text, unsigned threads) {
    static uint32_t words[1024];
    struct device dev = {0};
    const uint64_t out = device_alloc(&dev, 4096, true);
    uint32_t *data = device_data(&dev, out);

    for (uint32_t i = 0; i < 1024; i++) {
        data[i] = i * 3 + 1;
    }
    assert_int_equal(run_text(&dev, text, 1, threads, &out), PTX_OK);
    assert_no_findings(&dev);
    memcpy(words, data, sizeof(words));
    device_free(&dev);
    return words;
}
