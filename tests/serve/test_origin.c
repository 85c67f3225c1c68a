/* Whose page a request comes from. */
#include "test.h"

#include "serve/origin.h"

static void origins(void **state) {
    (void)state;
    static const struct {
        const char *origin, *host, *allowed;
        bool local_only;
        enum origin is;
    } cases[] = {
        {NULL, "localhost:8000", NULL, true, ORIGIN_NONE},
        {NULL, NULL, "*", false, ORIGIN_NONE},
        /* our own page, by whatever name it was called */
        {"http://127.0.0.1:8000", "127.0.0.1:8000", NULL, true, ORIGIN_OWN},
        {"http://localhost:8000", "LocalHost:8000", NULL, true, ORIGIN_OWN},
        {"http://localhost", "localhost", NULL, true, ORIGIN_OWN},
        {"http://[::1]:8000", "[::1]:8000", NULL, true, ORIGIN_OWN},
        {"http://node17:8000", "node17:8000", NULL, false, ORIGIN_OWN},
        {"https://llm.example.org", "llm.example.org", NULL, false,
         ORIGIN_OWN}, /* behind a proxy */
        /* others */
        {"http://localhost:8001", "localhost:8000", NULL, false, ORIGIN_FOREIGN},
        {"http://localhost:80001", "localhost:8000", NULL, false, ORIGIN_FOREIGN},
        {"https://evil.example", "127.0.0.1:8000", NULL, false, ORIGIN_FOREIGN},
        {"null", "127.0.0.1:8000", NULL, true, ORIGIN_FOREIGN},
        {"null", "null", NULL, false, ORIGIN_FOREIGN},
        {"", "", NULL, true, ORIGIN_FOREIGN},
        {"http://127.0.0.1:8000", NULL, NULL, true, ORIGIN_FOREIGN},
        /* names that were made to point here */
        {"http://evil.example:8000", "evil.example:8000", NULL, true, ORIGIN_FOREIGN},
        {"http://127.0.0.1.evil.example", "127.0.0.1.evil.example", NULL, true, ORIGIN_FOREIGN},
        {"http://localhost.evil.example", "localhost.evil.example", NULL, true, ORIGIN_FOREIGN},
        {"http://", "", NULL, true, ORIGIN_FOREIGN},
        /* those let in */
        {"https://a.example", "127.0.0.1:8000", "https://a.example", true, ORIGIN_ALLOWED},
        {"https://a.example:1", "127.0.0.1:8000", "https://a.example", true, ORIGIN_FOREIGN},
        {"http://a.example", "127.0.0.1:8000", "https://a.example", true, ORIGIN_FOREIGN},
        {"https://a.example.evil", "127.0.0.1:8000", "https://a.example", true, ORIGIN_FOREIGN},
        {"http://127.0.0.1:8000", "127.0.0.1:8000", "https://a.example", true, ORIGIN_OWN},
        {"null", "127.0.0.1:8000", "*", true, ORIGIN_ALLOWED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum origin got =
            origin_of(cases[i].origin, cases[i].host, cases[i].allowed, cases[i].local_only);
        if (got != cases[i].is) {
            fail_msg("%s for %s: %d, not %d", cases[i].origin, cases[i].host, (int)got,
                     (int)cases[i].is);
        }
    }
}

static void valid_ones(void **state) {
    (void)state;
    static const char *const good[] = {"*", "https://example.org", "http://localhost:3000",
                                       "http://[::1]:80", "chrome-extension://abcdef"};
    static const char *const bad[] = {"",
                                      "**",
                                      "example.org",
                                      "https://",
                                      "://x",
                                      "https://example.org/",
                                      "https://a.example,https://b.example",
                                      "https://a b",
                                      "https://user@example.org"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(origin_is_valid(good[i]));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(origin_is_valid(bad[i]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(origins), cmocka_unit_test(valid_ones)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
