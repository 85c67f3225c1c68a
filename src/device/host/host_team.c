#include "device/host/host.h"

#include <omp.h>
#include <stdatomic.h>

#include "base/flight.h"

struct range host_team_part(int total, int n, int i) {
    return (struct range){(int)((int64_t)total * i / n), (int)((int64_t)total * (i + 1) / n)};
}

bool host_team_reserve(struct host_device *h, int n_thread, size_t scratch_bytes,
                       struct error *err) {
    for (int t = 0; t < n_thread; t++) {
        if (!host_scratch_reserve(&h->scratch[t], scratch_bytes, err)) {
            return false;
        }
    }
    return true;
}

bool host_team_run(struct host_device *h, int n_item, host_work *work, void *ctx,
                   size_t scratch_bytes, struct error *err) {
    int n_thread = n_item < h->n_thread ? n_item : h->n_thread;
    if (!host_team_reserve(h, n_thread, scratch_bytes, err)) {
        return false;
    }
    if (n_thread <= 1) {
        for (int i = 0; i < n_item; i++) {
            work(ctx, i, h->scratch[0].data);
            flight_tick();
        }
        return true;
    }
    atomic_int taken = 0;
#pragma omp parallel num_threads(n_thread)
    {
        /* OpenMP may give fewer threads than asked for. */
        int n = omp_get_num_threads();
        int t = omp_get_thread_num();
        void *scratch = h->scratch[t].data;
        for (int i = t; i < n_item;
             i = n + atomic_fetch_add_explicit(&taken, 1, memory_order_relaxed)) {
            work(ctx, i, scratch);
            if (t == 0) { /* who called */
                flight_tick();
            }
        }
    }
    return true;
}
