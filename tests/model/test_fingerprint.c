/* What a fingerprint sees, and what it does not. */
#include "test.h"

#include <string.h>

#include "base/flight.h"
#include "base/hash.h"
#include "format/safetensors.h"
#include "model/fingerprint.h"
#include "model/model.h"
#include "tempdir.h"

enum { MATRIX = 1 << 20, VECTOR = 64, DATA = MATRIX + VECTOR };

static struct tempdir dir;
static unsigned char data[DATA];
static const struct model_config config = {.hidden = 64, .rms_eps = 1e-6f};

static int make_dir(void **state) {
    (void)state;
    tempdir_make(&dir);
    return 0;
}

static int remove_dir(void **state) {
    (void)state;
    tempdir_remove(&dir);
    return 0;
}

/* A matrix and, in the midst of it, nothing that is read but by chance; then a vector. */
static void write_file(const char *file, const char *prefix, const char *space) {
    static unsigned char bytes[8 + 400 + DATA];
    char header[400];
    int n = snprintf(header, sizeof header,
                     "{\"%s.m\":{\"dtype\":\"F32\",\"shape\":[%d,4],\"data_offsets\":[0,%d]},"
                     "\"%s.v\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%d,%d]}}%s",
                     prefix, MATRIX / 16, MATRIX, prefix, VECTOR / 4, MATRIX, DATA, space);
    memset(bytes, 0, 8);
    bytes[0] = (unsigned char)n;
    bytes[1] = (unsigned char)(n >> 8);
    memcpy(bytes + 8, header, (size_t)n);
    memcpy(bytes + 8 + n, data, DATA);
    tempdir_write(&dir, file, bytes, 8 + (size_t)n + DATA);
}

static void write_index(const char *first, const char *second) {
    char text[600];
    snprintf(text, sizeof text,
             "{\"weight_map\":{\"%s.m\":\"%s.safetensors\",\"%s.m\":\"%s.safetensors\","
             "\"b.v\":\"b.safetensors\",\"a.v\":\"a.safetensors\"}}",
             first, first, second, second);
    tempdir_text(&dir, "model.safetensors.index.json", text);
}

static void write_model(void) {
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)(i * 2654435761u >> 13);
    }
    write_file("a.safetensors", "a", "");
    write_file("b.safetensors", "b", "");
    write_index("a", "b");
}

static struct fingerprint print_of(const struct model_config *c, int file) {
    struct fingerprint p;
    struct st_set *set;
    struct error err;
    assert_ok(st_open(&set, dir.path, &err), &err);
    assert_ok(fingerprint_read(&p, c, set, file, NULL, &err), &err);
    st_close(set);
    return p;
}

static void assert_print(struct fingerprint a, struct fingerprint b, bool config_same,
                         bool headers_same, bool content_same) {
    assert_int_equal(a.config == b.config, config_same);
    assert_int_equal(a.headers == b.headers, headers_same);
    assert_int_equal(a.content == b.content, content_same);
}

static void copies_are_the_same(void **state) {
    (void)state;
    write_model();
    struct fingerprint p = print_of(&config, 0);
    write_index("b", "a"); /* in another order */
    assert_print(p, print_of(&config, 0), true, true, true);
}

static void what_the_forward_pass_takes_of_config(void **state) {
    (void)state;
    write_model();
    struct fingerprint p = print_of(&config, 0);
    struct model_config c = config;
    c.temperature = 0.5; /* rank 0's alone */
    c.n_eos = 3;
    assert_print(p, print_of(&c, 0), true, true, true);
    c.rms_eps = 1e-5f;
    assert_print(p, print_of(&c, 0), false, true, true);
    c = config;
    c.rope.theta = 1;
    assert_print(p, print_of(&c, 0), false, true, true);
}

static void headers_and_which_file(void **state) {
    (void)state;
    write_model();
    struct fingerprint all = print_of(&config, 0), a = print_of(&config, 1),
                       b = print_of(&config, 2), none = print_of(&config, 3);
    write_file("b.safetensors", "b", "   ");
    assert_print(all, print_of(&config, 0), true, false, true);
    assert_print(a, print_of(&config, 1), true, true, true);
    assert_print(b, print_of(&config, 2), true, false, true);
    assert_print(none, print_of(&config, 3), true, true, true);
    assert_true(none.headers != a.headers);
    struct st_set *set;
    struct error err;
    assert_ok(st_open(&set, dir.path, &err), &err);
    assert_string_equal(fingerprint_file(set, 1), "a.safetensors");
    assert_string_equal(fingerprint_file(set, 2), "b.safetensors");
    assert_null(fingerprint_file(set, 3));
    assert_null(fingerprint_file(set, 0));
    st_close(set);
}

static void content_at_both_ends_and_in_vectors(void **state) {
    (void)state;
    static const size_t places[] = {0, 4095, MATRIX - 1, MATRIX, DATA - 1};
    write_model();
    struct fingerprint all = print_of(&config, 0), b = print_of(&config, 2);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        data[places[i]] ^= 0x80;
        write_file("a.safetensors", "a", "");
        assert_print(all, print_of(&config, 0), true, true, false);
        assert_print(b, print_of(&config, 2), true, true, true);
        data[places[i]] ^= 0x80;
    }
}

/* Of a large file one block in the middle is seen by chance: 64 KiB of a megabyte. Another file of
 * the same size, as a fine-tuned model's, differs in all of them. */
static void content_that_differs_everywhere_between(void **state) {
    (void)state;
    write_model();
    struct fingerprint p = print_of(&config, 0);
    for (size_t i = 4096; i < MATRIX - 4096; i += 512) {
        data[i] ^= 1;
    }
    write_file("a.safetensors", "a", "");
    assert_print(p, print_of(&config, 0), true, true, false);
}

static void two_signs_do_not_cancel_out(void **state) {
    (void)state;
    uint64_t words[4] = {1, 2, 3, 4};
    uint64_t h = hash_words(HASH_START, words, sizeof words);
    words[0] ^= UINT64_C(1) << 63;
    words[2] ^= UINT64_C(1) << 63;
    assert_true(hash_words(HASH_START, words, sizeof words) != h);
    assert_true(hash_words(HASH_START, "\0", 1) != hash_words(HASH_START, "\0\0", 2));
}

static bool refuse(void *user, uint64_t done, uint64_t total, struct error *err) {
    assert_true(done == 0 && total == 0);
    ++*(int *)user;
    return error_set(err, ERROR_INTERRUPTED, "no more");
}

/* On a slow disk it takes as long as it takes. */
static void it_is_seen_to_go_on(void **state) {
    (void)state;
    struct fingerprint p;
    struct st_set *set;
    struct error err;
    int n = 0;
    const struct model_progress progress = {.report = refuse, .user = &n};
    write_model();
    flight_pulse(1);
    uint64_t before = flight_read_pulse(flight_own());
    assert_ok(st_open(&set, dir.path, &err), &err);
    assert_false(fingerprint_read(&p, &config, set, 0, &progress, &err));
    st_close(set);
    assert_int_equal(err.kind, ERROR_INTERRUPTED);
    assert_int_equal(n, 1);
    assert_true(flight_read_pulse(flight_own()) > before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_the_same),
        cmocka_unit_test(what_the_forward_pass_takes_of_config),
        cmocka_unit_test(headers_and_which_file),
        cmocka_unit_test(content_at_both_ends_and_in_vectors),
        cmocka_unit_test(content_that_differs_everywhere_between),
        cmocka_unit_test(two_signs_do_not_cancel_out),
        cmocka_unit_test(it_is_seen_to_go_on),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
