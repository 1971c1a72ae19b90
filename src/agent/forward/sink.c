/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/forward/sink.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"
#include "os/sock.h"
#include "os/spawn.h"
#include "wire/json.h"

#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#define TICK_MS 500
#define BATCH_EVERY_MS 1000              /* a line waits at most so long for company */
#define BATCH_BYTES ((size_t)384 << 10)  /* of lines and their heads; a batch ends with the record that passes it */
#define SAVE_EVERY_MS 1000
#define SWEEP_EVERY_MS 60000
#define SILENT_MS 180000                 /* the child says something every ten seconds, unless a resolver holds it up */
#define CHILD_BACKOFF_MAX_MS 30000
#define READERS_MAX 32                   /* open segments */
#define CURSOR_MAX ((size_t)16 << 20)
#define READ_TROUBLE_MS 30000

/* How far one instance has come. */
struct tail {
    char ids[MT_LOGFWD_IDS][MT_SOURCE_NAME];
    uint64_t last;         /* as the sources say */
    uint64_t sent, acked;  /* given to the child; the receiver has it */
    uint64_t dropped;      /* lines that it will not get, not yet said */
    const char *dropped_why;
    unsigned flights;      /* batches that are under way with its lines */
    struct mt_log_reader *reader;
    int64_t reader_used_ns, not_before_ns;
};

struct part {
    struct tail *tail;
    uint64_t seq;
    uint32_t n;
};

struct flight {
    uint64_t id;
    struct part *parts;
    size_t n_parts;
    uint32_t records;
};

struct mt_sink {
    struct mt_sink_conf c;
    char id[MT_SOURCE_NAME], org_id[MT_SOURCE_NAME];
    char *child_conf;
    char cursor_path[PATH_MAX];
    pthread_t thread;
    bool started;
    atomic_bool quit;
    int wake_fd;

    pthread_mutex_t lock; /* guards child and state */
    int pidfd;            /* -1: none runs */
    struct mt_sink_state state;

    /* the thread's own */
    struct mt_map tails;
    json_t *cursor; /* as read at the start: instance -> number */
    size_t readers;
    int fd; /* to the child */
    struct mt_buf in;
    struct flight flights[MT_LOGFWD_WINDOW];
    size_t n_flights;
    uint64_t next_id;
    int64_t heard_ns, batch_ns, save_ns, sweep_ns, child_not_before_ns, child_backoff_ms;
    bool save_due, more;
};

/* ---- the cursor -------------------------------------------------------------------------- */

static void load_cursor(struct mt_sink *s)
{
    mt_auto_free char *text = NULL;
    mt_auto_json json_t *o = NULL;
    size_t n;
    struct mt_err err = {0};
    int rc = mt_file_read(s->cursor_path, CURSOR_MAX, &text, &n, &err);
    if (rc == -MT_E_NOT_FOUND)
        return; /* a new sink: what is stored so far is not its business */
    if (rc == 0)
        rc = mt_json_parse(text, n, CURSOR_MAX, 3, &o, &err);
    s->cursor = json_incref(json_object_get(o, "acked"));
    if (rc < 0 || !json_is_object(s->cursor)) {
        mt_log(MT_WARN, "forward.cursor_unreadable", KV("sink", (const char *)s->id), KV_ERR(&err));
        json_decref(s->cursor);
        s->cursor = json_object(); /* at least once: from the beginning of what is stored */
    }
}

static void save_cursor(struct mt_sink *s, int64_t now)
{
    size_t pos = 0;
    void *v;
    struct mt_err err = {0};
    mt_auto_json json_t *acked = json_object();
    while (acked && mt_map_next(&s->tails, &pos, NULL, &v)) {
        const struct tail *t = v;
        (void)json_object_set_new(acked, t->ids[MT_LOGFWD_INSTANCE], json_integer((json_int_t)t->acked));
    }
    mt_auto_json json_t *o = json_pack("{s:i,s:O}", "format", 1, "acked", acked);
    mt_auto_free char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    s->save_ns = now;
    if (!text || mt_file_write(s->cursor_path, text, strlen(text), 0600, &err) < 0) {
        mt_log(MT_WARN, "forward.cursor_unsaved", KV("sink", (const char *)s->id), KV_ERR(&err));
        return;
    }
    s->save_due = false;
}

/* ---- tails ------------------------------------------------------------------------------- */

static void close_reader(struct mt_sink *s, struct tail *t)
{
    if (!t->reader)
        return;
    mt_log_reader_close(t->reader);
    t->reader = NULL;
    s->readers--;
}

static void close_idlest(struct mt_sink *s)
{
    size_t pos = 0;
    void *v;
    struct tail *old = NULL;
    while (mt_map_next(&s->tails, &pos, NULL, &v)) {
        struct tail *t = v;
        if (t->reader && (!old || t->reader_used_ns < old->reader_used_ns))
            old = t;
    }
    if (old)
        close_reader(s, old);
}

/* Once for each instance, with the table's lock held: no I/O here. */
static void meet(struct mt_sink *s, const struct mt_log_source *src)
{
    const char *id = src->ids[MT_LOGFWD_INSTANCE];
    struct tail *t = mt_map_get(&s->tails, id);
    if (!t) {
        t = calloc(1, sizeof *t);
        if (!t)
            return;
        memcpy(t->ids, src->ids, sizeof t->ids);
        t->last = atomic_load(&src->last);
        const json_t *at = json_object_get(s->cursor, id);
        t->acked = json_is_integer(at) && json_integer_value(at) > 0 ? (uint64_t)json_integer_value(at) : 0;
        if (!s->cursor && !s->c.since_us)
            t->acked = t->last; /* a new sink */
        t->sent = t->acked;
        s->save_due = true;
        if (mt_map_put(&s->tails, t->ids[MT_LOGFWD_INSTANCE], t) < 0) {
            free(t);
            return;
        }
    }
    t->last = atomic_load(&src->last);
}

static void drop_lines(struct mt_sink *s, struct tail *t, uint64_t n, bool refused)
{
    t->dropped += n;
    t->dropped_why = refused ? "the receiver refused them" : "removed here before the receiver took them";
    atomic_fetch_add(refused ? &s->c.totals->refused : &s->c.totals->lost, n);
}

static void sync_tails(struct mt_sink *s, int64_t now)
{
    size_t pos = 0;
    void *v;
    uint64_t waiting = 0;
    bool sweep = now - s->sweep_ns >= SWEEP_EVERY_MS * MT_NS_PER_MS;
    (void)pthread_mutex_lock(&s->c.sources->lock);
    while (mt_map_next(&s->c.sources->map, &pos, NULL, &v)) {
        const struct mt_log_source *src = v;
        if (!s->c.org_id || MT_STREQ(src->ids[MT_LOGFWD_ORG], s->org_id))
            meet(s, src);
    }
    for (pos = 0; mt_map_next(&s->tails, &pos, NULL, &v);) {
        struct tail *t = v;
        waiting += t->last > t->acked ? t->last - t->acked : 0;
        if (!sweep || t->flights || mt_map_get(&s->c.sources->map, t->ids[MT_LOGFWD_INSTANCE]))
            continue;
        if (t->last > t->sent) /* its folder is gone with what was not read */
            drop_lines(s, t, t->last - t->sent, false);
        close_reader(s, t);
        (void)mt_map_remove(&s->tails, t->ids[MT_LOGFWD_INSTANCE]);
        free(t);
        s->save_due = true;
    }
    (void)pthread_mutex_unlock(&s->c.sources->lock);
    if (sweep)
        s->sweep_ns = now;
    if (!s->cursor)
        s->cursor = json_object(); /* whoever comes from here on is sent from its first line */
    (void)pthread_mutex_lock(&s->lock);
    s->state.waiting = waiting;
    (void)pthread_mutex_unlock(&s->lock);
}

/* ---- batches ----------------------------------------------------------------------------- */

static void put_dropped(struct tail *t, const struct mt_log_record *before, struct mt_buf *b)
{
    char text[160];
    int n = snprintf(text, sizeof text, "forward dropped=%" PRIu64 " lines: %s", t->dropped, t->dropped_why);
    const struct mt_logfwd_record r = {.seq = before->seq - 1, .ts_us = before->ts_us, .boot = before->boot, .stream = MT_LOG_SYSTEM, .flags = MT_LOG_GAP,
                                       .line = (const uint8_t *)text, .len = (size_t)n};
    mt_logfwd_put_record(b, &r);
    t->dropped = 0;
}

/* Lines of one instance. Returns how many were put. */
static uint32_t put_tail(struct mt_sink *s, struct tail *t, struct mt_buf *b, int64_t now)
{
    const char *ids[MT_LOGFWD_IDS];
    struct mt_log_record rec;
    struct mt_err err = {0};
    uint32_t n = 0;
    int rc = 0;
    if (!t->reader && s->readers >= READERS_MAX)
        close_idlest(s);
    if (!t->reader && (rc = mt_log_reader_open(s->c.sources->dir, t->ids[MT_LOGFWD_INSTANCE], t->sent, &t->reader, &err)) == 0)
        s->readers++;
    t->reader_used_ns = now;
    while (rc == 0 && b->len < BATCH_BYTES && (rc = mt_log_reader_next(t->reader, &rec, &err)) == 1) {
        if (rec.ts_us < s->c.since_us && n == 0) { /* of before the drain was set */
            t->sent = rec.seq;
            t->acked = t->flights ? t->acked : rec.seq;
            rc = atomic_load(&s->quit) ? -MT_E_CANCELLED : 0;
            continue;
        }
        if (rec.seq > t->sent + 1 && (t->sent || !s->c.since_us))
            drop_lines(s, t, rec.seq - t->sent - 1, false);
        if (n == 0) {
            for (int i = 0; i < MT_LOGFWD_IDS; i++)
                ids[i] = t->ids[i];
            mt_logfwd_put_ids(b, ids);
        }
        if (t->dropped)
            put_dropped(t, &rec, b);
        const struct mt_logfwd_record r = {.seq = rec.seq, .ts_us = rec.ts_us, .boot = rec.boot, .stream = rec.stream, .flags = rec.flags, .line = rec.line, .len = rec.len};
        mt_logfwd_put_record(b, &r);
        t->sent = rec.seq;
        n++;
        rc = 0;
    }
    if (rc < 0) {
        /* the last record of a segment that is being written can look torn: it is read again, in a while when that goes on */
        close_reader(s, t);
        t->not_before_ns = now + (t->not_before_ns ? READ_TROUBLE_MS : TICK_MS) * MT_NS_PER_MS;
    } else if (n) {
        t->not_before_ns = 0;
    }
    return n;
}

static int send_all(int fd, const uint8_t *p, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return -1;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

static int send_batch(struct mt_sink *s, int64_t now)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_LOGFWD_FRAME_MAX);
    struct flight f = {.id = s->next_id + 1};
    size_t pos = 0, at = mt_logfwd_begin(&b, MT_LOGFWD_BATCH), open = 0;
    void *v;
    mt_buf_put_be64(&b, f.id);
    while (mt_map_next(&s->tails, &pos, NULL, &v))
        open += ((struct tail *)v)->last > ((struct tail *)v)->sent && ((struct tail *)v)->not_before_ns <= now;
    s->more = false;
    if (open == 0 || !(f.parts = calloc(open, sizeof *f.parts)))
        return 0;
    for (pos = 0; f.n_parts < open && mt_map_next(&s->tails, &pos, NULL, &v);) {
        struct tail *t = v;
        if (t->last <= t->sent || t->not_before_ns > now)
            continue;
        if (b.len >= BATCH_BYTES) {
            s->more = true;
            break;
        }
        uint32_t n = put_tail(s, t, &b, now);
        if (n == 0)
            continue;
        f.parts[f.n_parts++] = (struct part){t, t->sent, n};
        f.records += n;
        t->flights++;
    }
    s->more |= b.len >= BATCH_BYTES;
    if (f.n_parts == 0 || b.failed) {
        free(f.parts);
        return b.failed ? -1 : 0;
    }
    mt_logfwd_end(&b, at);
    s->next_id = f.id;
    s->flights[s->n_flights++] = f;
    s->batch_ns = now;
    return send_all(s->fd, b.p, b.len);
}

/* ---- answers ----------------------------------------------------------------------------- */

static void set_state(struct mt_sink *s, bool up, const char *why)
{
    (void)pthread_mutex_lock(&s->lock);
    bool changed = s->state.up != up || (!up && *why && !MT_STREQ(s->state.why, why));
    s->state.up = up;
    if (up || *why)
        (void)snprintf(s->state.why, sizeof s->state.why, "%s", up ? "" : why);
    (void)pthread_mutex_unlock(&s->lock);
    if (changed)
        mt_log(up ? MT_INFO : MT_WARN, up ? "forward.up" : "forward.down", KV("sink", (const char *)s->id), KV("error", why));
}

static int landed(struct mt_sink *s, struct mt_rd *body)
{
    char why[MT_LOGFWD_TEXT_MAX + 1];
    uint64_t id = mt_rd_be64(body);
    uint32_t refused = mt_rd_be32(body);
    if (body->bad || s->n_flights == 0 || s->flights[0].id != id || refused > s->flights[0].records)
        return -1;
    mt_logfwd_why(body, why);
    struct flight f = s->flights[0];
    s->n_flights--;
    memmove(s->flights, s->flights + 1, s->n_flights * sizeof *s->flights);
    for (size_t i = 0; i < f.n_parts; i++) {
        struct part *p = &f.parts[i];
        p->tail->acked = p->seq;
        p->tail->flights--;
        if (refused == f.records) /* else which ones is not said: the first instance of the batch stands for all */
            drop_lines(s, p->tail, p->n, true);
        else if (refused && i == 0)
            drop_lines(s, p->tail, refused, true);
    }
    free(f.parts);
    atomic_fetch_add(&s->c.totals->lines, f.records - refused);
    if (refused)
        mt_log(MT_WARN, "forward.refused", KV("sink", (const char *)s->id), KV("lines", refused), KV("error", (const char *)why));
    s->save_due = true;
    return 0;
}

/* -1: the child has to go. */
static int hear(struct mt_sink *s, int64_t now)
{
    struct mt_err err = {0};
    struct mt_rd body;
    uint8_t type;
    char why[MT_LOGFWD_TEXT_MAX + 1];
    int64_t n;
    void *at = mt_buf_reserve(&s->in, 4096);
    ssize_t k = at ? recv(s->fd, at, 4096, MSG_DONTWAIT) : -1;
    if (k < 0 && at && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (k <= 0)
        return -1;
    s->in.len += (size_t)k;
    s->heard_ns = now;
    while ((n = mt_logfwd_frame(s->in.p, s->in.len, &type, &body, &err)) > 0) {
        if (type == MT_LOGFWD_DONE) {
            if (landed(s, &body) < 0)
                return -1;
        } else if (type == MT_LOGFWD_STATE) {
            bool up = mt_rd_u8(&body) == 1;
            mt_logfwd_why(&body, why);
            set_state(s, up, why);
        } else {
            return -1;
        }
        mt_buf_consume(&s->in, (size_t)n);
    }
    return n < 0 ? -1 : 0;
}

/* ---- the child --------------------------------------------------------------------------- */

static int start_child(struct mt_sink *s, int64_t now, struct mt_err *err)
{
    int pair[2], pidfd = -1;
    pid_t pid;
    const char *const argv[] = {"moat-forward", NULL};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "socketpair");
    s->fd = pair[0];
    mt_auto_fd int other = pair[1];
    const struct mt_spawn sp = {.path = s->c.program, .argv = argv, .stdin_fd = other, .stdout_fd = other, .stderr_fd = -1, .new_session = true, .parent_death_signal = SIGKILL};
    int rc = mt_sock_timeout(s->fd, SILENT_MS, err);
    if (rc == 0)
        rc = mt_spawn(&sp, &pid, &pidfd, err);
    if (rc < 0) {
        mt_closep(&s->fd);
        return rc;
    }
    (void)pthread_mutex_lock(&s->lock);
    s->pidfd = pidfd;
    (void)pthread_mutex_unlock(&s->lock);
    s->heard_ns = now;
    mt_buf_reset(&s->in);
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_LOGFWD_FRAME_MAX);
    size_t n = strlen(s->child_conf);
    (void)mt_buf_reserve(&b, n + 64); /* it holds the receiver's secret: no copy stays behind */
    size_t at = mt_logfwd_begin(&b, MT_LOGFWD_CONF);
    mt_buf_put(&b, s->child_conf, n);
    mt_logfwd_end(&b, at);
    rc = b.failed || send_all(s->fd, b.p, b.len) < 0 ? MT_FAIL(err, MT_E_IO, "give moat-forward its configuration") : 0;
    if (b.p)
        explicit_bzero(b.p, b.len);
    return rc;
}

/* The child is over, or has to be: what it did not answer is sent again to the next. */
static void end_child(struct mt_sink *s, int64_t now)
{
    size_t pos = 0;
    void *v;
    (void)pthread_mutex_lock(&s->lock);
    int pidfd = MT_TAKE_FD(s->pidfd);
    (void)pthread_mutex_unlock(&s->lock);
    if (pidfd >= 0) {
        struct mt_run_result end;
        (void)mt_pidfd_kill(pidfd, SIGKILL, NULL);
        (void)mt_pidfd_wait(pidfd, 5000, &end, NULL);
        (void)close(pidfd);
    }
    mt_closep(&s->fd);
    for (size_t i = 0; i < s->n_flights; i++)
        free(s->flights[i].parts);
    s->n_flights = 0;
    while (mt_map_next(&s->tails, &pos, NULL, &v)) {
        struct tail *t = v;
        t->flights = 0;
        if (t->sent != t->acked) {
            t->sent = t->acked;
            close_reader(s, t);
        }
    }
    s->child_backoff_ms = s->child_backoff_ms ? s->child_backoff_ms * 2 : 1000;
    if (s->child_backoff_ms > CHILD_BACKOFF_MAX_MS)
        s->child_backoff_ms = CHILD_BACKOFF_MAX_MS;
    s->child_not_before_ns = now + s->child_backoff_ms * MT_NS_PER_MS;
}

static void turn(struct mt_sink *s)
{
    struct mt_err err = {0};
    int64_t now = mt_clock_mono();
    sync_tails(s, now);
    if (s->fd < 0 && now >= s->child_not_before_ns) {
        if (start_child(s, now, &err) < 0) {
            set_state(s, false, err.msg);
            end_child(s, now);
        }
    }
    struct pollfd p[2] = {{.fd = s->wake_fd, .events = POLLIN}, {.fd = s->fd, .events = POLLIN}};
    (void)poll(p, 2, s->more && s->fd >= 0 && s->n_flights < MT_LOGFWD_WINDOW ? 0 : TICK_MS);
    now = mt_clock_mono();
    int rc = 0;
    if (s->fd >= 0 && p[1].revents)
        rc = hear(s, now);
    if (rc == 0 && s->fd >= 0 && now - s->heard_ns > SILENT_MS * MT_NS_PER_MS)
        rc = -1;
    if (rc == 0 && s->fd >= 0 && s->n_flights < MT_LOGFWD_WINDOW && (s->more || now - s->batch_ns >= BATCH_EVERY_MS * MT_NS_PER_MS))
        rc = send_batch(s, now);
    if (rc < 0) {
        if (!atomic_load(&s->quit))
            set_state(s, false, s->state.why[0] ? s->state.why : "moat-forward ended");
        end_child(s, now);
    } else if (s->fd >= 0 && s->state.up) {
        s->child_backoff_ms = 0;
    }
    if (s->save_due && now - s->save_ns >= SAVE_EVERY_MS * MT_NS_PER_MS)
        save_cursor(s, now);
}

static void *main_of(void *arg)
{
    struct mt_sink *s = arg;
    size_t pos = 0;
    void *v;
    load_cursor(s);
    while (!atomic_load(&s->quit))
        turn(s);
    end_child(s, mt_clock_mono());
    save_cursor(s, mt_clock_mono());
    while (mt_map_next(&s->tails, &pos, NULL, &v)) {
        close_reader(s, v);
        free(v);
    }
    mt_map_done(&s->tails);
    return NULL;
}

int mt_sink_new(const struct mt_sink_conf *c, struct mt_sink **ret, struct mt_err *err)
{
    struct mt_sink *s = calloc(1, sizeof *s);
    uint64_t seed;
    pthread_attr_t small;
    if (!s)
        return MT_FAIL(err, MT_E_NOMEM, "sink of logs: out of memory");
    s->c = *c;
    s->fd = s->pidfd = -1;
    s->child_conf = mt_strndup(c->child, strlen(c->child));
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mt_buf_init(&s->in, 65536);
    mt_random(&seed, sizeof seed);
    mt_map_init(&s->tails, seed);
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)snprintf(s->id, sizeof s->id, "%s", c->id);
    (void)snprintf(s->org_id, sizeof s->org_id, "%s", c->org_id ? c->org_id : "");
    (void)snprintf(s->state.why, sizeof s->state.why, "nothing was sent yet");
    int rc = !s->child_conf || s->wake_fd < 0 ? MT_FAIL(err, MT_E_NOMEM, "sink of logs: out of memory") : mt_fmt(s->cursor_path, sizeof s->cursor_path, err, "%s/%s.json", c->state_dir, c->id);
    if (rc == 0) {
        (void)pthread_attr_init(&small);
        (void)pthread_attr_setstacksize(&small, 256U << 10);
        s->started = pthread_create(&s->thread, &small, main_of, s) == 0;
        (void)pthread_attr_destroy(&small);
        rc = s->started ? 0 : MT_FAIL(err, MT_E_IO, "sink of logs: no thread");
    }
    if (rc < 0) {
        mt_sink_free(s, false);
        return rc;
    }
    *ret = s;
    return 0;
}

void mt_sink_free(struct mt_sink *s, bool forget)
{
    if (!s)
        return;
    const uint64_t one = 1;
    atomic_store(&s->quit, true);
    (void)!write(s->wake_fd, &one, sizeof one);
    (void)pthread_mutex_lock(&s->lock);
    if (s->pidfd >= 0) /* a thread that writes to it must not hang on it */
        (void)mt_pidfd_kill(s->pidfd, SIGKILL, NULL);
    (void)pthread_mutex_unlock(&s->lock);
    if (s->started)
        (void)pthread_join(s->thread, NULL);
    if (forget)
        (void)unlink(s->cursor_path);
    if (s->child_conf)
        explicit_bzero(s->child_conf, strlen(s->child_conf));
    free(s->child_conf);
    json_decref(s->cursor);
    mt_buf_done(&s->in);
    mt_closep(&s->wake_fd);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}

void mt_sink_state(struct mt_sink *s, struct mt_sink_state *ret)
{
    (void)pthread_mutex_lock(&s->lock);
    *ret = s->state;
    (void)pthread_mutex_unlock(&s->lock);
}
