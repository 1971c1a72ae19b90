/* SPDX-License-Identifier: Apache-2.0 */
/* One exec session of the CLI: WebSocket on one side, stdin, stdout and stderr on the other. Bounded: one window of input, two messages of
 * output; a slow stdout stops the socket from being read. */
#include "cli/exec.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"
#include "os/sock.h"
#include "wire/exec.h"
#include "wire/websocket.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

enum { CONNECT_MS = 20000, HEAD_MAX = 16384, STDIN_PART = 32768, CREDIT_MAX = 1 << 20 };
#define MESSAGE_MAX (1 + MT_EXEC_PAYLOAD_MAX)

struct session {
    struct cli *c;
    int fd, signals;
    bool tty, stdin_open, over, broken;
    uint32_t credit;
    int die; /* TERM or HUP came, or stdout is gone: the status to exit with */
    struct cli_exec_end *end;
    size_t in_len, out_at, out_len;
    uint8_t in[2 * (MESSAGE_MAX + MT_WS_HEAD_MAX)];
    uint8_t out[STDIN_PART + 8192];
    uint8_t mem[MT_EXEC_MEM];
};

/* ---------------------------------------------------------------- terminal and signals */

static struct termios kept;
static bool raw;
static int signal_pipe[2] = {-1, -1};

static void restore(void)
{
    if (raw)
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &kept);
    raw = false;
}

static void make_raw(void)
{
    struct termios t;
    if (raw || tcgetattr(STDIN_FILENO, &kept) != 0)
        return;
    t = kept;
    cfmakeraw(&t);
    raw = tcsetattr(STDIN_FILENO, TCSADRAIN, &t) == 0;
}

static void on_signal(int signo)
{
    int keep = errno;
    char b = (char)signo;
    (void)!write(signal_pipe[1], &b, 1);
    errno = keep;
}

static int catch_signals(bool tty)
{
    static const int always[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP}, terminal[] = {SIGWINCH, SIGTSTP};
    if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) != 0)
        return -1;
    struct sigaction sa = {.sa_handler = on_signal}; /* no SA_RESTART: a write to a stuck stdout must let go */
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        (void)sigaction(always[i], &sa, NULL);
    for (size_t i = 0; tty && i < sizeof terminal / sizeof terminal[0]; i++)
        (void)sigaction(terminal[i], &sa, NULL);
    (void)sigaction(SIGPIPE, &(struct sigaction){.sa_handler = SIG_IGN}, NULL);
    return 0;
}

/* ---------------------------------------------------------------- towards the server */

static void flush(struct session *s)
{
    while (s->out_at < s->out_len) {
        ssize_t n = send(s->fd, s->out + s->out_at, s->out_len - s->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* a broken connection shows when it is read */
        s->out_at += (size_t)n;
    }
    s->out_at = s->out_len = 0;
}

static void put(struct session *s, enum mt_ws_op op, int type, const uint8_t *payload, size_t len)
{
    uint8_t mask[4];
    size_t n = len + (type >= 0 ? 1 : 0);
    if (sizeof s->out - s->out_len < n + MT_WS_HEAD_MAX)
        return;
    mt_random(mask, sizeof mask);
    s->out_len += mt_ws_head(s->out + s->out_len, op, n, mask);
    uint8_t *body = s->out + s->out_len;
    if (type >= 0)
        body[0] = (uint8_t)type;
    if (len)
        memcpy(body + (type >= 0 ? 1 : 0), payload, len);
    mt_ws_mask(body, n, mask);
    s->out_len += n;
    flush(s);
}

static void control(struct session *s, const struct mt_exec_control *what)
{
    uint8_t body[MT_EXEC_JSON_MAX];
    size_t n;
    if (mt_exec_control_encode(what, body, sizeof body, &n, NULL) == 0)
        put(s, MT_WS_BINARY, MT_EXEC_CONTROL, body, n);
}

static void resize(struct session *s)
{
    struct winsize ws;
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col && ws.ws_row)
        control(s, &(struct mt_exec_control){.kind = MT_EXEC_RESIZE, .cols = ws.ws_col < 1000 ? ws.ws_col : 1000,
                                             .rows = ws.ws_row < 1000 ? ws.ws_row : 1000});
}

static void take_signals(struct session *s)
{
    char b;
    while (read(signal_pipe[0], &b, 1) == 1) {
        switch (b) {
        case SIGINT:
        case SIGQUIT:
            control(s, &(struct mt_exec_control){.kind = MT_EXEC_SIGNAL, .signal = b == SIGINT ? "INT" : "QUIT"});
            break;
        case SIGWINCH:
            resize(s);
            break;
        case SIGTSTP: /* from outside: in raw mode the key goes to the command */
            restore();
            (void)raise(SIGSTOP);
            make_raw();
            resize(s);
            break;
        default:
            s->die = 128 + b;
            break;
        }
    }
}

/* ---------------------------------------------------------------- from the server */

static void output(struct session *s, int fd, const uint8_t *p, size_t len)
{
    while (len > 0 && !s->die) {
        ssize_t n = write(fd, p, len);
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        } else if (n < 0 && errno == EINTR) {
            take_signals(s);
        } else if (n < 0 && errno == EAGAIN) { /* somebody else made it non-blocking */
            struct pollfd f[2] = {{.fd = fd, .events = POLLOUT}, {.fd = signal_pipe[0], .events = POLLIN}};
            (void)poll(f, 2, -1);
            take_signals(s);
        } else {
            s->die = errno == EPIPE ? 128 + SIGPIPE : CLI_FAILURE;
            if (errno != EPIPE)
                (void)fprintf(stderr, "error: cannot write the output: %s\n", strerror(errno));
        }
    }
}

static void take_exit(struct session *s, const uint8_t *p, size_t len)
{
    struct mt_guest_mem mem = {.base = s->mem, .cap = sizeof s->mem};
    struct mt_exec_exit e;
    s->over = true;
    if (mt_exec_exit_decode(p, len, &mem, &e, NULL) < 0) {
        (void)snprintf(s->end->reason, sizeof s->end->reason, "protocol_error");
        return;
    }
    s->end->exit_code = e.exit_code;
    (void)snprintf(s->end->signal, sizeof s->end->signal, "%s", e.signal ? e.signal : "");
    (void)snprintf(s->end->reason, sizeof s->end->reason, "%s", e.reason);
    (void)snprintf(s->end->detail, sizeof s->end->detail, "%s", e.detail ? e.detail : "");
}

static void take_message(struct session *s, const struct mt_ws_frame *f)
{
    if (f->op == MT_WS_PING)
        put(s, MT_WS_PONG, -1, f->payload, f->len);
    if (f->op == MT_WS_CLOSE)
        s->broken = true;
    if (f->op != MT_WS_BINARY || f->len < 1 || s->over)
        return;
    uint8_t type = f->payload[0];
    const uint8_t *p = f->payload + 1;
    size_t n = f->len - 1;
    if (!mt_exec_allowed(MT_EXEC_FROM_GUEST, type, n))
        return; /* of a later server */
    if (type == MT_EXEC_STDOUT || type == MT_EXEC_STDERR)
        output(s, type == MT_EXEC_STDOUT ? STDOUT_FILENO : STDERR_FILENO, p, n);
    else if (type == MT_EXEC_EXIT)
        take_exit(s, p, n);
    else if (type == MT_EXEC_WINDOW_MORE && mt_exec_window(p) <= CREDIT_MAX - s->credit)
        s->credit += mt_exec_window(p);
}

static void take_messages(struct session *s)
{
    size_t at = 0;
    while (!s->over && !s->die && !s->broken) {
        struct mt_ws_frame f;
        struct mt_err err;
        size_t used;
        int rc = mt_ws_decode(s->in + at, s->in_len - at, false, MESSAGE_MAX, &f, &used, &err);
        if (rc == 1)
            break;
        if (rc < 0) {
            (void)snprintf(s->end->reason, sizeof s->end->reason, "protocol_error");
            (void)snprintf(s->end->detail, sizeof s->end->detail, "%s", err.msg);
            s->over = true;
            return;
        }
        at += used;
        take_message(s, &f);
    }
    memmove(s->in, s->in + at, s->in_len - at);
    s->in_len -= at;
}

static void read_server(struct session *s)
{
    ssize_t n = recv(s->fd, s->in + s->in_len, sizeof s->in - s->in_len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        s->broken = true;
        return;
    }
    s->in_len += (size_t)n;
    take_messages(s);
}

static void read_stdin(struct session *s)
{
    static uint8_t part[STDIN_PART];
    size_t max = s->credit < sizeof part ? s->credit : sizeof part;
    ssize_t n = read(STDIN_FILENO, part, max);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        s->stdin_open = false;
        put(s, MT_WS_BINARY, MT_EXEC_STDIN, NULL, 0);
        return;
    }
    s->credit -= (uint32_t)n;
    put(s, MT_WS_BINARY, MT_EXEC_STDIN, part, (size_t)n);
}

static void turns(struct session *s)
{
    take_messages(s);
    while (!s->over && !s->die && !s->broken) {
        bool reads = s->stdin_open && s->credit > 0 && s->out_len == 0;
        struct pollfd f[3] = {{.fd = s->fd, .events = (short)(POLLIN | (s->out_len ? POLLOUT : 0))},
                              {.fd = reads ? STDIN_FILENO : -1, .events = POLLIN},
                              {.fd = signal_pipe[0], .events = POLLIN}};
        if (poll(f, 3, -1) < 0 && errno != EINTR)
            break;
        take_signals(s);
        flush(s);
        if (reads && f[1].revents)
            read_stdin(s);
        if (f[0].revents & (POLLIN | POLLHUP | POLLERR))
            read_server(s);
    }
}

/* ---------------------------------------------------------------- handshake */

/* Read the answer's head into s->in; what is behind it stays there. */
static int read_head(struct session *s, char **ret_head, struct mt_err *err)
{
    int64_t until = mt_clock_mono() + CONNECT_MS * MT_NS_PER_MS;
    for (;;) {
        struct pollfd p = {.fd = s->fd, .events = POLLIN};
        int64_t left = (until - mt_clock_mono()) / MT_NS_PER_MS;
        if (left <= 0 || poll(&p, 1, (int)left) == 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "the server does not answer the handshake");
        ssize_t n = recv(s->fd, s->in + s->in_len, HEAD_MAX - s->in_len, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return MT_FAIL(err, MT_E_UNAVAILABLE, "the server closed the connection");
        s->in_len += (size_t)n;
        uint8_t *end = memmem(s->in, s->in_len, "\r\n\r\n", 4);
        if (!end && s->in_len == HEAD_MAX)
            return MT_FAIL(err, MT_E_CORRUPT, "the server's answer is not HTTP");
        if (!end)
            continue;
        size_t head = (size_t)(end + 4 - s->in);
        *ret_head = mt_strndup((const char *)s->in, head);
        memmove(s->in, s->in + head, s->in_len - head);
        s->in_len -= head;
        return *ret_head ? 0 : MT_FAIL(err, MT_E_NOMEM, "out of memory");
    }
}

static int refused(struct session *s, int status)
{
    /* the problem's text came with the head or comes right behind */
    struct pollfd p = {.fd = s->fd, .events = POLLIN};
    while (s->in_len < HEAD_MAX && !memchr(s->in, '}', s->in_len) && poll(&p, 1, 1000) > 0) {
        ssize_t n = recv(s->fd, s->in + s->in_len, HEAD_MAX - s->in_len, MSG_DONTWAIT);
        if (n <= 0)
            break;
        s->in_len += (size_t)n;
    }
    mt_auto_json json_t *j = NULL;
    char what[400];
    if (mt_json_parse((const char *)s->in, s->in_len, HEAD_MAX, 8, &j, NULL) < 0 || !json_is_object(j))
        (void)snprintf(what, sizeof what, "the session was not opened (status %d)", status);
    else
        (void)snprintf(what, sizeof what, "%s: %s", cli_str(j, "code"), cli_str(j, "detail"));
    (void)cli_error(s->c, cli_exit_of_status(status), what, NULL);
    return 255;
}

static int handshake(struct session *s, const char *url, const char *token)
{
    char key[25], accept[MT_WS_ACCEPT_SIZE], line[80];
    mt_auto_free char *head = NULL;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(2000);
    struct mt_err err = {0};
    mt_ws_key(key);
    (void)mt_ws_accept(key, accept);
    mt_buf_printf(&b, "GET %s HTTP/1.1\r\nHost: moat\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                      "Sec-WebSocket-Protocol: moat.exec.v1\r\nSec-WebSocket-Key: %s\r\nAuthorization: Bearer %s\r\nUser-Agent: moat/" MOAT_VERSION
                      "\r\n\r\n", url, key, token);
    if (mt_buf_check(&b, &err) < 0 || mt_http_client_dial(s->c->http, &s->fd, &err) < 0 ||
        (send(s->fd, b.p, b.len, MSG_NOSIGNAL) != (ssize_t)b.len && MT_FAIL_ERRNO(&err, MT_E_UNAVAILABLE, "send the handshake") < 0) ||
        read_head(s, &head, &err) < 0) {
        (void)cli_fail(s->c, &err, NULL);
        return 255;
    }
    int status = mt_starts_with(head, "HTTP/1.1 ") ? (int)strtol(head + 9, NULL, 10) : 0;
    if (status != 101)
        return refused(s, status);
    (void)snprintf(line, sizeof line, "\r\nSec-WebSocket-Accept: %s\r\n", accept);
    if (!strcasestr(head, line)) {
        (void)cli_error(s->c, CLI_INTERNAL, "the server's handshake is wrong", NULL);
        return 255;
    }
    return CLI_OK;
}

int cli_exec_run(struct cli *c, const char *url, const char *token, bool tty, bool with_stdin, struct cli_exec_end *ret)
{
    static struct session s;
    s.c = c;
    s.fd = -1;
    s.end = ret;
    s.tty = tty;
    s.stdin_open = with_stdin;
    if (!mt_starts_with(url, "/v1/exec-sessions/") || !*token || strpbrk(url, " \r\n") || strpbrk(token, " \r\n")) {
        (void)cli_error(c, CLI_TRANSIENT, "the session's token is lost (the answer was that of an earlier request)", "run it again");
        return 255;
    }
    int code = handshake(&s, url, token);
    if (code == CLI_OK && catch_signals(tty) != 0)
        code = cli_error(c, CLI_FAILURE, "cannot watch signals", NULL);
    if (code == CLI_OK) {
        (void)atexit(restore);
        if (tty) {
            make_raw();
            resize(&s); /* it may have changed since it was asked for */
        }
        turns(&s);
        restore();
        if (s.die) {
            control(&s, &(struct mt_exec_control){.kind = MT_EXEC_CLOSE});
            mt_closep(&s.fd);
            cli_done(c);
            exit(s.die);
        }
        if (!s.over) {
            (void)snprintf(ret->reason, sizeof ret->reason, "%s", "agent_unreachable");
            (void)snprintf(ret->detail, sizeof ret->detail, "%s", "the connection to the control plane broke");
        }
    }
    mt_closep(&s.fd);
    return code;
}
