#include "cli/vigil_link.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/flight_peers.h"
#include "base/log.h"
#include "cli/status.h"

enum { ROUNDS = 3, DOUBTS = 10, STRANGERS = 16, EVENTS = 32 };
static const double try_s = 1;   /* of one address */
static const double hello_s = 5; /* for the other side to say who it is */
static const double alive_s = 0.5;
static const double lives_s = 3; /* less than that, and a rank is thought alive */

enum state {
    LINK_NONE,    /* and there will be none */
    LINK_AWAITED, /* it connects to this rank, which is the lower one */
    LINK_CONNECTING,
    LINK_GREETING, /* hello is said; whether it was heard is not known */
    LINK_UP,
    LINK_DOUBTED, /* it closed without a word: does its port still answer? */
    LINK_ENDED,
    LINK_LEFT /* it has said goodbye, or that the job ends */
};

struct peer {
    enum state state;
    bool known;                   /* it was up once */
    double since;                 /* in this state */
    double silent_s;              /* since it was heard of */
    int fd;                       /* -1: none */
    struct vigil_address address; /* once it is known at[0] is the one that works */
    int next, rounds, doubts;
    struct vigil_reader reader;
    char host[64], device[16];
};

/* Somebody who has connected. */
struct stranger {
    int fd; /* -1: nobody */
    double since;
    struct vigil_reader reader;
};

static struct {
    pthread_mutex_t lock;
    int rank, world;
    uint64_t token;
    int listener, epoll;        /* -1: none */
    struct peer *peers;         /* owns [world] */
    struct stranger *strangers; /* owns [n_stranger] */
    int n_stranger;
    double alive; /* when this rank last said so */
    bool deaf;    /* no descriptors were left: the listener is not looked at until the next ALIVE */
    bool heard, said;
    struct error why; /* heard */
} links = {.lock = PTHREAD_MUTEX_INITIALIZER, .listener = -1, .epoll = -1};

/* ---- one link; under the lock ---- */

static int rank_of(const struct peer *p) {
    return (int)(p - links.peers);
}

static void enter(struct peer *p, enum state state) {
    p->state = state;
    p->since = clock_now();
}

static void drop(struct peer *p) {
    if (p->fd >= 0) {
        close(p->fd);
    }
    p->fd = -1;
    p->reader.n = 0;
}

static bool watch_fd(int fd, uint32_t events, int id) {
    struct epoll_event e = {.events = events, .data = {.u32 = (uint32_t)id}};
    return epoll_ctl(links.epoll, EPOLL_CTL_ADD, fd, &e) == 0 ||
           (errno == EEXIST && epoll_ctl(links.epoll, EPOLL_CTL_MOD, fd, &e) == 0);
}

/* To one of its addresses. False, with errno: it has failed already. */
static bool start_connect(struct peer *p, int address) {
    drop(p);
    return vigil_address_connect(&p->address.at[address], p->address.port, &p->fd) &&
           watch_fd(p->fd, EPOLLOUT, rank_of(p));
}

static void try_next(struct peer *p) {
    for (; p->rounds < ROUNDS; p->rounds++, p->next = 0) {
        while (p->next < p->address.n) {
            if (start_connect(p, p->next++)) {
                enter(p, LINK_CONNECTING);
                return;
            }
        }
    }
    drop(p);
    enter(p, LINK_NONE);
    log_debug("no link to rank %d: whether it lives is not watched", rank_of(p));
}

/* Its process has ended, or else somebody between has cut the links. A port without a process
 * refuses at once. */
static void doubt(struct peer *p) {
    /* One that could not listen has no port that could be asked. */
    bool asks = p->address.port && p->doubts++ < DOUBTS;
    enter(p, asks ? LINK_DOUBTED : LINK_AWAITED);
    if (p->state == LINK_DOUBTED && !start_connect(p, 0)) {
        bool refused = errno == ECONNREFUSED;
        drop(p);
        enter(p, refused ? LINK_ENDED : LINK_AWAITED);
    }
}

static void fail(struct peer *p) {
    drop(p);
    if (p->known) {
        doubt(p);
    } else if (rank_of(p) > links.rank) {
        enter(p, LINK_AWAITED);
    } else {
        try_next(p);
    }
}

/* A frame goes whole or not at all; one that was torn must not be followed by others. */
static void send_frame(struct peer *p, const struct vigil_frame *f) {
    struct vigil_frame own = *f;
    own.from = links.rank;
    own.to = rank_of(p);
    ssize_t n = p->fd < 0 ? -1 : send(p->fd, &own, sizeof own, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0 && n < (ssize_t)sizeof own) {
        shutdown(p->fd, SHUT_RDWR);
    }
}

static struct vigil_frame own_frame(enum vigil_word word) {
    struct flight_owner owner = {0};
    flight_read_owner(flight_own(), &owner);
    return vigil_frame_make(links.token, word, owner.host, owner.device, NULL);
}

/* Over what has just been connected. */
static void greet(struct peer *p) {
    struct vigil_frame hello = own_frame(VIGIL_HELLO);
    int on = 1;
    setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch_fd(p->fd, EPOLLIN, rank_of(p));
    enter(p, LINK_GREETING);
    send_frame(p, &hello);
}

static void on_connected(struct peer *p) {
    int failed = 0;
    socklen_t size = sizeof failed;
    getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &failed, &size);
    bool doubted = p->state == LINK_DOUBTED, connects_itself = rank_of(p) > links.rank;
    if (doubted && failed && failed != ECONNRESET) {
        drop(p);
        enter(p, failed == ECONNREFUSED ? LINK_ENDED : LINK_AWAITED);
    } else if (failed) { /* or it was just closing its port */
        fail(p);
    } else if (connects_itself) { /* if it lives; else this is closed, too */
        watch_fd(p->fd, EPOLLIN, rank_of(p));
        enter(p, LINK_GREETING);
    } else {
        greet(p);
    }
}

static void note_place(int rank, const struct vigil_frame *f) {
    struct peer *p = &links.peers[rank];
    if (*f->host && (strcmp(p->host, f->host) != 0 || strcmp(p->device, f->device) != 0)) {
        memcpy(p->host, f->host, sizeof p->host);
        memcpy(p->device, f->device, sizeof p->device);
        status_set_place(rank, p->host, p->device);
    }
}

static void on_up(struct peer *p) {
    p->known = true;
    p->doubts = 0;
    if (p->state != LINK_UP) {
        enter(p, LINK_UP);
    }
}

static void on_frame(struct peer *p, const struct vigil_frame *f) {
    p->silent_s = 0;
    switch (f->word) {
    case VIGIL_HELLO: /* to whom has connected: it has been heard, and says so at once */
        if (p->next > 0) {
            p->address.at[0] = p->address.at[p->next - 1]; /* the one to ask when in doubt */
            p->next = 1;
        }
        on_up(p);
        note_place(f->from, f);
        struct vigil_frame alive = own_frame(VIGIL_ALIVE);
        send_frame(p, &alive);
        break;
    case VIGIL_ALIVE:
        on_up(p);
        note_place(f->from, f);
        break;
    case VIGIL_BYE:
        enter(p, LINK_LEFT);
        break;
    default: /* the end of the job */
        links.said = links.said || f->word == VIGIL_SAID;
        enter(p, LINK_LEFT);
        if (!links.heard) {
            vigil_frame_error(f, &links.why);
            links.heard = true;
            if (f->about >= 0) {
                note_place(f->about, f);
            }
        }
    }
}

static bool is_from(const struct peer *p, struct vigil_frame *f) {
    return vigil_frame_check(f, links.token, links.world) && f->from == rank_of(p) &&
           f->to == links.rank;
}

static void read_peer(struct peer *p) {
    struct vigil_frame f;
    enum vigil_read got;
    while ((got = vigil_read(&p->reader, p->fd, &f)) == VIGIL_READ_FRAME && is_from(p, &f)) {
        on_frame(p, &f);
    }
    if (got != VIGIL_READ_NOTHING && p->state == LINK_LEFT) {
        drop(p);
    } else if (got != VIGIL_READ_NOTHING) {
        fail(p);
    }
}

/* ---- who connects ---- */

static void forget(struct stranger *s) {
    close(s->fd);
    *s = (struct stranger){.fd = -1};
}

static void accept_all(void) {
    int fd;
    while ((fd = accept4(links.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int i = 0;
        while (i < links.n_stranger && links.strangers[i].fd >= 0) {
            i++;
        }
        if (i == links.n_stranger || !watch_fd(fd, EPOLLIN, links.world + 1 + i)) {
            close(fd);
        } else {
            links.strangers[i] = (struct stranger){.fd = fd, .since = clock_now()};
        }
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        epoll_ctl(links.epoll, EPOLL_CTL_DEL, links.listener, NULL); /* it would stay readable */
        links.deaf = true;
    }
}

static void welcome(struct stranger *s, const struct vigil_frame *hello) {
    struct peer *p = &links.peers[hello->from];
    drop(p);
    p->fd = s->fd;
    *s = (struct stranger){.fd = -1};
    p->address.at[0] = vigil_address_of_peer(p->fd);
    note_place(hello->from, hello);
    greet(p);
}

static void read_stranger(struct stranger *s) {
    struct vigil_frame f;
    enum vigil_read got = vigil_read(&s->reader, s->fd, &f);
    if (got == VIGIL_READ_NOTHING) {
        return;
    }
    if (got == VIGIL_READ_FRAME && vigil_frame_check(&f, links.token, links.world) &&
        f.word == VIGIL_HELLO && f.to == links.rank && f.from > links.rank) {
        welcome(s, &f);
    } else {
        forget(s);
    }
}

/* ---- life ---- */

void vigil_link_open(struct vigil_address *own) {
    links.listener = vigil_address_open(own);
}

/* Under the lock. */
static bool meet(int rank, int world, const struct vigil_address *all, struct error *err) {
    links.rank = rank;
    links.world = world;
    links.token = all[0].token;
    links.n_stranger = world + STRANGERS;
    links.peers = calloc((size_t)world, sizeof *links.peers);
    links.strangers = calloc((size_t)links.n_stranger, sizeof *links.strangers);
    if (!links.peers || !links.strangers) {
        return error_set(err, ERROR_MEMORY, "cannot watch over %d ranks", world);
    }
    for (int i = 0; i < links.n_stranger; i++) {
        links.strangers[i].fd = -1;
    }
    links.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (links.epoll < 0 || (links.listener >= 0 && !watch_fd(links.listener, EPOLLIN, world))) {
        log_debug("other hosts are not watched: %s", strerror(errno));
    }
    for (int r = 0; r < world; r++) {
        struct peer *p = &links.peers[r];
        p->fd = -1;
        p->address = all[r];
        vigil_address_sort(&p->address);
        if (r < rank && p->address.port && links.epoll >= 0) {
            try_next(p);
        } else if (r > rank && links.listener >= 0) {
            enter(p, LINK_AWAITED);
        }
    }
    return true;
}

bool vigil_link_meet(int rank, int world, const struct vigil_address *all, struct error *err) {
    pthread_mutex_lock(&links.lock); /* another thread may speak */
    bool ok = meet(rank, world, all, err);
    pthread_mutex_unlock(&links.lock);
    return ok;
}

int vigil_link_fd(void) {
    return links.epoll;
}

static void on_event(int id) {
    if (id == links.world) {
        accept_all();
    } else if (id > links.world && links.strangers[id - links.world - 1].fd >= 0) {
        read_stranger(&links.strangers[id - links.world - 1]);
    } else if (id < links.world) {
        struct peer *p = &links.peers[id];
        if (p->state == LINK_CONNECTING || p->state == LINK_DOUBTED) {
            on_connected(p);
        } else if (p->fd >= 0) {
            read_peer(p);
        }
    }
}

static void look_at_times(double now, double passed_s) {
    for (int r = 0; r < links.world; r++) {
        struct peer *p = &links.peers[r];
        double since_s = now - p->since;
        p->silent_s += passed_s;
        if (p->state == LINK_DOUBTED && since_s > try_s) {
            drop(p);
            enter(p, LINK_AWAITED);
        } else if (p->state == LINK_AWAITED && p->known && r < links.rank && since_s > try_s) {
            p->doubts = 0; /* the way there may be open again */
            doubt(p);
        } else if ((p->state == LINK_CONNECTING && since_s > try_s) ||
                   (p->state == LINK_GREETING && since_s > hello_s)) {
            fail(p);
        }
    }
    for (int i = 0; i < links.n_stranger; i++) {
        if (links.strangers[i].fd >= 0 && now - links.strangers[i].since > hello_s) {
            forget(&links.strangers[i]);
        }
    }
}

/* How this rank ends is also for one that was greeted and may think the link is up. */
static void say_to_all(const struct vigil_frame *f) {
    for (int r = 0; r < links.world; r++) {
        enum state state = links.peers[r].state;
        bool greeted = state == LINK_GREETING && f->word != VIGIL_ALIVE;
        if (state == LINK_UP || state == LINK_LEFT || greeted) {
            send_frame(&links.peers[r], f);
        }
    }
}

void vigil_link_turn(double passed_s) {
    struct epoll_event events[EVENTS];
    int n;
    if (links.epoll < 0) {
        return;
    }
    pthread_mutex_lock(&links.lock);
    do {
        n = epoll_wait(links.epoll, events, EVENTS, 0);
        for (int i = 0; i < n; i++) {
            on_event((int)events[i].data.u32);
        }
    } while (n == EVENTS);
    double now = clock_now();
    look_at_times(now, passed_s);
    if (now - links.alive >= alive_s) {
        struct vigil_frame alive = own_frame(VIGIL_ALIVE);
        say_to_all(&alive);
        links.alive = now;
        links.deaf = links.deaf && !watch_fd(links.listener, EPOLLIN, links.world);
    }
    pthread_mutex_unlock(&links.lock);
}

/* ---- what is known ---- */

static bool is_missed(const struct peer *p) {
    return p->known && p->state != LINK_ENDED && p->state != LINK_LEFT;
}

int vigil_link_ended(void) {
    int found = -1;
    pthread_mutex_lock(&links.lock);
    for (int r = 0; links.peers && r < links.world && found < 0; r++) {
        const struct peer *p = &links.peers[r];
        found = p->state == LINK_ENDED ? r : -1;
    }
    pthread_mutex_unlock(&links.lock);
    return found;
}

int vigil_link_silent(double seconds) {
    int found = -1;
    pthread_mutex_lock(&links.lock);
    for (int r = 0; links.peers && r < links.world && found < 0; r++) {
        const struct peer *p = &links.peers[r];
        found = is_missed(p) && p->silent_s >= seconds ? r : -1;
    }
    pthread_mutex_unlock(&links.lock);
    return found;
}

double vigil_link_silence(int rank) {
    pthread_mutex_lock(&links.lock);
    double silence = links.peers ? links.peers[rank].silent_s : 0;
    pthread_mutex_unlock(&links.lock);
    return silence;
}

bool vigil_link_lives(int rank) {
    pthread_mutex_lock(&links.lock);
    bool lives =
        links.peers && is_missed(&links.peers[rank]) && links.peers[rank].silent_s < lives_s;
    pthread_mutex_unlock(&links.lock);
    return lives;
}

bool vigil_link_is_out_of_reach(int rank) {
    int unsent = 0;
    pthread_mutex_lock(&links.lock);
    const struct peer *p = links.peers ? &links.peers[rank] : NULL;
    bool out = p && is_missed(p) && p->silent_s >= lives_s &&
               (p->fd < 0 || p->state == LINK_DOUBTED ||
                (ioctl(p->fd, SIOCOUTQ, &unsent) == 0 && unsent > 0));
    pthread_mutex_unlock(&links.lock);
    return out;
}

bool vigil_link_heard(struct error *why) {
    pthread_mutex_lock(&links.lock);
    bool heard = links.heard;
    if (heard) {
        *why = links.why;
    }
    pthread_mutex_unlock(&links.lock);
    return heard;
}

bool vigil_link_has_said(void) {
    pthread_mutex_lock(&links.lock);
    bool said = links.said;
    pthread_mutex_unlock(&links.lock);
    return said;
}

bool vigil_link_is_whole(void) {
    pthread_mutex_lock(&links.lock);
    bool whole = links.peers != NULL;
    for (int r = 0; whole && r < links.world; r++) {
        whole = r == links.rank || links.peers[r].known;
    }
    pthread_mutex_unlock(&links.lock);
    return whole;
}

void vigil_link_say(enum vigil_word word, const struct error *err) {
    struct flight_owner owner = {0};
    int about = err && err->has_rank ? err->rank : links.rank;
    pthread_mutex_lock(&links.lock);
    if (!links.peers) {
        pthread_mutex_unlock(&links.lock);
        return;
    }
    struct peer *p = about >= 0 && about < links.world ? &links.peers[about] : NULL;
    const struct flight *f = flight_of_rank(about);
    bool known = f && flight_read_owner(f, &owner);
    struct vigil_frame frame = vigil_frame_make(links.token, word,
                                                known ? owner.host
                                                : p   ? p->host
                                                      : "",
                                                known ? owner.device
                                                : p   ? p->device
                                                      : "",
                                                err);
    say_to_all(&frame);
    pthread_mutex_unlock(&links.lock);
}
