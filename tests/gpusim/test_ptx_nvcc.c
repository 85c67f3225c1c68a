/* What nvcc makes of test_ptx_kernels.cu, against C. Argument: the PTX file. */
#include "test_ptx.h"

#include <math.h>

static struct ptx_module *module;

static uint16_t bf16_of(float x) {
    uint32_t u;

    memcpy(&u, &x, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float of_bf16(uint16_t h) {
    const uint32_t u = (uint32_t)h << 16;
    float x;

    memcpy(&x, &u, 4);
    return x;
}

static float sample(uint32_t i) {
    return (float)(i * 2654435761u >> 16) / 65536.0f - 0.25f;
}

static void test_rmsnorm(void **state) {
    enum { ROWS = 3, DIM = 333 };
    struct device dev = {0};
    struct {
        uint64_t y;
        uint64_t x;
        int dim;
        float eps;
    } p = {device_alloc(&dev, ROWS * DIM * 2, false), device_alloc(&dev, ROWS * DIM * 4, true), DIM,
           1e-6f};
    const uint16_t *y = device_data(&dev, p.y);
    float *x = device_data(&dev, p.x);

    (void)state;
    for (uint32_t i = 0; i < ROWS * DIM; i++) {
        x[i] = sample(i);
    }
    assert_int_equal(device_run(&dev, module, "rmsnorm", ROWS, 128, 0, &p), PTX_OK);
    assert_no_findings(&dev);
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;

        for (int i = 0; i < DIM; i++) {
            sum += (double)x[r * DIM + i] * (double)x[r * DIM + i];
        }
        for (int i = 0; i < DIM; i++) {
            const double expected = (double)x[r * DIM + i] / sqrt(sum / DIM + 1e-6);

            assert_true(fabs((double)of_bf16(y[r * DIM + i]) - expected) <=
                        fabs(expected) * 0.00391);
        }
    }
    device_free(&dev);
}

struct matmul {
    uint64_t c;
    uint64_t a;
    uint64_t b;
    int k;
};

static struct matmul make_matmul(struct device *dev, int rows, int k) {
    const struct matmul p = {device_alloc(dev, (size_t)rows * 32 * 4, false),
                             device_alloc(dev, (size_t)(rows * k) * 2, true),
                             device_alloc(dev, (size_t)k * 32 * 2, true), k};
    uint16_t *a = device_data(dev, p.a);
    uint16_t *b = device_data(dev, p.b);

    for (uint32_t i = 0; i < (uint32_t)(rows * k); i++) {
        a[i] = bf16_of(sample(i));
    }
    for (uint32_t i = 0; i < (uint32_t)k * 32; i++) {
        b[i] = bf16_of(sample(i + 12345));
    }
    return p;
}

static void test_matmul(void **state) {
    enum { ROWS = 48, K = 80 };
    struct device dev = {0};
    const struct matmul p = make_matmul(&dev, ROWS, K);
    const uint16_t *a = device_data(&dev, p.a);
    const uint16_t *b = device_data(&dev, p.b);
    const float *c = device_data(&dev, p.c);

    (void)state;
    assert_int_equal(device_run(&dev, module, "matmul", ROWS / 16, 128, 0, &p), PTX_OK);
    assert_no_findings(&dev);
    for (int i = 0; i < ROWS; i++) {
        for (int j = 0; j < 32; j++) {
            double sum = 0;

            for (int k = 0; k < K; k++) {
                sum += (double)of_bf16(a[i * K + k]) * (double)of_bf16(b[k * 32 + j]);
            }
            assert_true(fabs((double)c[i * 32 + j] - sum) < 1e-4);
        }
    }
    device_free(&dev);
}

static void test_matmul_bugs(void **state) {
    static const struct {
        const char *kernel;
        const char *words[4];
    } bugs[] = {
        {"matmul_no_wait", {"stale", "ldmatrix", "kernel matmul_no_wait"}},
        {"matmul_no_barrier", {"shared", "ldmatrix"}},
        {"matmul_refills_early", {"race on shared memory: write", "cp.async"}},
    };

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct device dev = {0};
        const struct matmul p = make_matmul(&dev, 16, 64);

        assert_int_equal(device_run(&dev, module, bugs[i].kernel, 1, 128, 0, &p), PTX_OK);
        if (!found(&dev, bugs[i].words)) {
            fail_msg("%s: %s", bugs[i].kernel, dev.n_finding > 0 ? dev.findings[0] : "nothing");
        }
        device_free(&dev);
    }
}

struct simple {
    uint64_t y;
    uint64_t x;
    int n;
};

static void test_reverse(void **state) {
    enum { N = 150 };
    struct device dev = {0};
    const struct simple p = {device_alloc(&dev, N * 4, false), device_alloc(&dev, N * 4, true), N};
    const int *y = device_data(&dev, p.y);
    int *x = device_data(&dev, p.x);

    (void)state;
    for (int i = 0; i < N; i++) {
        x[i] = i * i;
    }
    assert_int_equal(device_run(&dev, module, "reverse", 3, 64, 64 * 4, &p), PTX_OK);
    assert_no_findings(&dev);
    for (int i = 0; i < N; i++) {
        assert_int_equal(y[i], x[N - 1 - i]);
    }
    assert_int_equal(device_run(&dev, module, "reverse", 3, 64, 32 * 4, &p), PTX_ILLEGAL_ADDRESS);
    device_free(&dev);
}

static void test_histogram(void **state) {
    enum { N = 1000 };
    struct device dev = {0};
    const struct simple p = {device_alloc(&dev, 64, true), device_alloc(&dev, N * 4, true), N};
    const uint32_t *bins = device_data(&dev, p.y);
    uint32_t *x = device_data(&dev, p.x);
    uint32_t expected[16] = {0};

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        x[i] = i * 2654435761u >> 7;
        expected[x[i] % 16]++;
    }
    assert_int_equal(device_run(&dev, module, "histogram", 2, 96, 0, &p), PTX_OK);
    assert_no_findings(&dev);
    assert_memory_equal(bins, expected, sizeof(expected));
    device_free(&dev);
}

static double function(int which, double x) {
    switch (which) {
    case 0:
        return exp(x);
    case 1:
        return log(x + 1);
    case 2:
        return sin((double)((float)x * 1000.0f));
    case 3:
        return tanh(x);
    case 4:
        return pow((double)((float)x + 1.0f), 2.5);
    case 5:
        return 1 / sqrt((double)((float)x + 1.0f));
    case 6:
        return sqrt(x);
    case 7:
        return x / 3;
    case 8:
        return erf(x);
    default:
        return (double)fmodf((float)x, 0.3f);
    }
}

static void test_functions(void **state) {
    enum { N = 200 };
    struct device dev = {0};
    const struct simple p = {device_alloc(&dev, N * 8, false), device_alloc(&dev, N * 4, true), N};
    const float *y = device_data(&dev, p.y);
    float *x = device_data(&dev, p.x);

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        x[i] = fabsf(sample(i)) * (i % 10 == 2 ? 400.0f : 4.0f); /* sin of large numbers, too */
    }
    assert_int_equal(device_run(&dev, module, "functions", 4, 64, 0, &p), PTX_OK);
    assert_no_findings(&dev);
    for (int i = 0; i < N; i++) {
        const double expected = function(i % 10, (double)x[i]);

        if (fabs((double)y[2 * i] - expected) > 2e-6 * fmax(fabs(expected), 0.1)) {
            fail_msg("function %d of %g: %g, not %g", i % 10, (double)x[i], (double)y[2 * i],
                     expected);
        }
        assert_true(y[2 * i + 1] == x[i] * 2);
    }
    device_free(&dev);
}

static void test_odds(void **state) {
    enum { N = 96 };
    static const int order[8] = {3, 1, 4, 0, 5, 7, 2, 6};
    struct device dev = {0};
    const struct simple p = {device_alloc(&dev, N * 8, false), device_alloc(&dev, N * 8, true), N};
    const int64_t *y = device_data(&dev, p.y);
    int64_t *x = device_data(&dev, p.x);
    int64_t own[N][8];
    int all = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        x[i] = (int64_t)(i - 40) * 123456789012345;
        for (int j = 0; j < 8; j++) {
            own[i][order[j]] = x[i] * (j + 1);
        }
        all += own[i][x[i] & 7] % 3 == 0;
    }
    assert_int_equal(device_run(&dev, module, "odds", 1, N, 0, &p), PTX_OK);
    assert_no_findings(&dev);
    for (int i = 0; i < N; i++) {
        const int j = (int)(x[i] & 7);

        assert_int_equal(y[i], own[i][j] / 7 + own[i][7 - j] % 1000 * 3 + all + 1000000);
    }
    device_free(&dev);
}

static void test_pairs(void **state) {
    enum { N = 40 };
    struct device dev = {0};
    struct {
        uint64_t y;
        uint64_t x;
        uint64_t z;
        int n;
    } p = {device_alloc(&dev, N * 4, false), device_alloc(&dev, N * 4, true),
           device_alloc(&dev, N * 4, false), N};
    const uint16_t *y = device_data(&dev, p.y);
    const uint16_t *z = device_data(&dev, p.z);
    uint16_t *x = device_data(&dev, p.x);

    (void)state;
    for (uint32_t i = 0; i < 2 * N; i++) {
        x[i] = bf16_of((float)(i % 9) * 0.25f - 1.0f);
    }
    assert_int_equal(device_run(&dev, module, "pairs", 1, 64, 0, &p), PTX_OK);
    assert_no_findings(&dev);
    for (int i = 0; i < 2 * N; i++) {
        const float a = of_bf16(x[i]);
        const float b = of_bf16(x[(i + 2) % (2 * N)]);
        const float expected = fmaxf(a * b + (a - b), b * b); /* all of them exact */
        const uint16_t h = z[i];
        const float sum = (h & 0x7c00) == 0
                              ? 0
                              : ldexpf((float)((h & 0x3ff) + 0x400), (h >> 10 & 31) - 25) *
                                    ((h & 0x8000) != 0 ? -1.0f : 1.0f);

        assert_true(of_bf16(y[i]) == expected);
        assert_true(sum == a + 0.5f);
    }
    device_free(&dev);
}

static void test_warp_scan(void **state) {
    struct device dev = {0};
    const struct simple p = {device_alloc(&dev, 256, false), device_alloc(&dev, 256, true), 0};
    const int *y = device_data(&dev, p.y);
    int *x = device_data(&dev, p.x);

    (void)state;
    for (int i = 0; i < 64; i++) {
        x[i] = i * 7 % 11;
    }
    assert_int_equal(device_run(&dev, module, "warp_scan", 1, 64, 0, &p), PTX_OK);
    assert_no_findings(&dev);
    for (int w = 0; w < 2; w++) {
        int most = 0;
        int even = 0;
        int sum = 0;

        for (int i = 0; i < 32; i++) {
            most = x[w * 32 + i] > most ? x[w * 32 + i] : most;
            even += x[w * 32 + i] % 2 == 0;
        }
        for (int i = 0; i < 32; i++) {
            sum += x[w * 32 + i];
            assert_int_equal(y[w * 32 + i], sum + most * 1000 + even * 1000000);
        }
    }
    device_free(&dev);
}

static void test_bugs(void **state) {
    static const char *const off[] = {"out of bounds", "kernel off_by_one", "block (1,0,0)",
                                      "thread (36,0,0)", NULL};
    static const char *const early[] = {"divergent barrier: 50 threads", "kernel early_return",
                                        NULL};
    struct device dev = {0};
    struct simple p = {device_alloc(&dev, 400, false), device_alloc(&dev, 400, true), 100};

    (void)state;
    assert_int_equal(device_run(&dev, module, "off_by_one", 2, 64, 0, &p), PTX_ILLEGAL_ADDRESS);
    assert_true(found(&dev, off));
    p.n = 50;
    assert_int_equal(device_run(&dev, module, "early_return", 1, 64, 0, &p), PTX_FAILED);
    assert_true(found(&dev, early));
    device_free(&dev);
}

static char *read_file(const char *path) {
    FILE *f = fopen(path, "r");
    char *text;
    long n;

    if (f == NULL || fseek(f, 0, SEEK_END) != 0 || (n = ftell(f)) < 0) {
        perror(path);
        exit(1);
    }
    rewind(f);
    text = calloc((size_t)n + 1, 1);
    if (text == NULL || fread(text, 1, (size_t)n, f) != (size_t)n) {
        perror(path);
        exit(1);
    }
    fclose(f);
    return text;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm),     cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_matmul_bugs), cmocka_unit_test(test_reverse),
        cmocka_unit_test(test_histogram),   cmocka_unit_test(test_functions),
        cmocka_unit_test(test_odds),        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_warp_scan),   cmocka_unit_test(test_bugs),
    };
    char error[512];
    char *text;
    int failed;

    if (argc < 2) {
        puts("no nvcc: nothing that it made to run");
        return 77;
    }
    text = read_file(argv[1]);
    if (!ptx_module_create(&module, text, strlen(text), error, sizeof(error))) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    free(text);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    ptx_module_destroy(module);
    return failed;
}
