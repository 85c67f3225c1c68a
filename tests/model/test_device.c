/* What a device does not take is refused before anything is read. */
#include "test.h"

#include <string.h>

#include "device/device.h"
#include "model/checkpoint.h"
#include "model/model.h"

static struct device *device;
static struct comm *comm;

static int open_host(void **state) {
    const struct host_options options = {.n_thread = 1};
    struct error err;
    (void)state;
    return host_device_create(&options, &device, &err) && comm_self_create(&comm, &err) ? 0 : -1;
}

static int close_host(void **state) {
    (void)state;
    comm_destroy(comm);
    device_destroy(device);
    return 0;
}

static bool measure(enum dtype kv, enum dtype quant, struct error *err) {
    const struct model_params params = {.dir = CHECKPOINT_RANDOM "qwen3-0.6b",
                                        .ctx = 64,
                                        .n_block = 1,
                                        .max_tok = 64,
                                        .kv = kv,
                                        .quant = quant};
    struct model_needs needs;
    return model_measure(&params, device, comm, NULL, &needs, NULL, err);
}

static void refused(enum dtype kv, enum dtype quant, const char *words) {
    struct error err;
    assert_false(measure(kv, quant, &err));
    assert_int_equal(err.kind, ERROR_UNSUPPORTED);
    assert_string_equal(err.message, words);
}

static void the_host_takes_two_caches_and_any_weights(void **state) {
    struct error err;
    (void)state;
    assert_ok(measure(DTYPE_F32, DTYPE_F32, &err), &err);
    assert_ok(measure(DTYPE_BF16, DTYPE_Q8_0, &err), &err);
    assert_ok(measure(DTYPE_F32, DTYPE_Q4_0, &err), &err);
    refused(DTYPE_F16, DTYPE_F32, "a KV cache in f16: this rank takes one in f32 or bf16");
    refused(DTYPE_Q8_0, DTYPE_F32, "a KV cache in q8_0: this rank takes one in f32 or bf16");
}

/* As a GPU in f32 says of itself. */
static void a_gpu_takes_neither_another_cache_nor_quantized_weights(void **state) {
    struct error err;
    (void)state;
    device->kv_bf16 = device->quantized = false;
    assert_ok(measure(DTYPE_F32, DTYPE_F32, &err), &err);
    refused(DTYPE_BF16, DTYPE_F32, "a KV cache in bf16: this rank takes one in f32");
    refused(DTYPE_F32, DTYPE_Q8_0, "q8_0: quantized weights are for the host alone");
    refused(DTYPE_F32, DTYPE_Q4_0, "q4_0: quantized weights are for the host alone");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_host_takes_two_caches_and_any_weights, open_host,
                                        close_host),
        cmocka_unit_test_setup_teardown(a_gpu_takes_neither_another_cache_nor_quantized_weights,
                                        open_host, close_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
