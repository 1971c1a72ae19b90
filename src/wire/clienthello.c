/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ClientHello reader. Two layers: records (rec_*) hand payload bytes to the handshake message (hs_*). Each layer
 * is a state machine over single bytes; runs of bytes that carry nothing (random, ciphers, unknown extensions) are
 * passed over at once. Every length is checked against what is left of its parent before it is believed.
 */
#include "wire/clienthello.h"

#include <string.h>

enum rec_state { REC_TYPE = 0, REC_MAJOR, REC_MINOR, REC_LEN_HI, REC_LEN_LO, REC_PAYLOAD };

enum hs_state {
    HS_TYPE = 0,
    HS_LEN,      /* 3 bytes */
    HS_VERSION,  /* 2 */
    HS_SKIP_RANDOM,
    HS_SID_LEN, /* 1 */
    HS_SKIP_SID,
    HS_CS_LEN, /* 2 */
    HS_SKIP_CS,
    HS_CM_LEN, /* 1 */
    HS_SKIP_CM,
    HS_EXTS_LEN, /* 2 */
    HS_EXT_TYPE, /* 2 */
    HS_EXT_LEN,  /* 2 */
    HS_SKIP_EXT,
    HS_SN_LIST, /* 2 */
    HS_SN_TYPE, /* 1 */
    HS_SN_LEN,  /* 2 */
    HS_SN_NAME,
    HS_SV_LEN, /* 1 */
    HS_SV_ITEM /* 2 */
};

enum { EXT_SERVER_NAME = 0, EXT_SUPPORTED_VERSIONS = 43, EXT_ECH = 0xfe0d };

#define REC_TYPE_HANDSHAKE 22
#define REC_PAYLOAD_MAX 16384U
#define NAME_WIRE_MAX 255U

void mt_hello_init(struct mt_hello *h, uint32_t max_bytes)
{
    memset(h, 0, sizeof(*h));
    if (max_bytes < MT_HELLO_MAX_FLOOR)
        max_bytes = MT_HELLO_MAX_FLOOR;
    if (max_bytes > MT_HELLO_MAX_CEIL)
        max_bytes = MT_HELLO_MAX_CEIL;
    h->max_bytes = max_bytes;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

size_t mt_hello_normal_name(const char *name, size_t len, char ret_name[256])
{
    if (len > 0 && name[len - 1] == '.')
        len--;
    if (len == 0 || len > MT_HELLO_NAME_MAX)
        return 0;
    size_t label = 0;
    unsigned dots = 0;
    bool numeric = true; /* four labels of digits only are an IPv4 literal, whatever the numbers are */
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        if (c == '.') {
            if (label == 0)
                return 0;
            label = 0;
            dots++;
            continue;
        }
        if (++label > 63)
            return 0;
        if (is_digit(c))
            continue;
        numeric = false;
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && c != '-' && c != '_')
            return 0;
    }
    if (label == 0 || (numeric && dots == 3))
        return 0;
    for (size_t i = 0; i < len; i++)
        ret_name[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] - 'A' + 'a' : name[i]);
    ret_name[len] = '\0';
    return len;
}

/* The message is complete: say what it holds. */
static enum mt_hello_result hello_end(struct mt_hello *h)
{
    if (h->best_version == 0)
        h->best_version = h->legacy_version;
    if (!h->saw_name)
        return MT_HELLO_NO_NAME;
    size_t n = mt_hello_normal_name(h->name, h->name_len, h->name);
    if (n == 0) {
        h->name[0] = '\0';
        h->name_len = 0;
        return MT_HELLO_BAD_NAME;
    }
    h->name_len = (uint16_t)n;
    return MT_HELLO_NAME;
}

/* Next extension, or the end of the list and with it of the message. */
static enum mt_hello_result ext_next(struct mt_hello *h)
{
    if (h->ext_left == 0)
        return hello_end(h);
    h->state = HS_EXT_TYPE;
    return MT_HELLO_MORE;
}

/* Go on to a run of @n bytes of no interest; the caller checked that the parent holds them. */
static void skip_to(struct mt_hello *h, enum hs_state s, uint32_t n)
{
    h->state = (uint8_t)s;
    h->skip = n;
}

/* After the run of the SKIP state @s. */
static enum mt_hello_result skip_done(struct mt_hello *h)
{
    switch (h->state) {
    case HS_SKIP_RANDOM:
        h->state = HS_SID_LEN;
        return MT_HELLO_MORE;
    case HS_SKIP_SID:
        h->state = HS_CS_LEN;
        return MT_HELLO_MORE;
    case HS_SKIP_CS:
        h->state = HS_CM_LEN;
        return MT_HELLO_MORE;
    case HS_SKIP_CM:
        if (h->body_left == 0)
            return hello_end(h); /* no extensions at all: allowed before TLS 1.3 */
        h->state = HS_EXTS_LEN;
        return MT_HELLO_MORE;
    case HS_SKIP_EXT:
        return ext_next(h);
    default:
        return MT_HELLO_MALFORMED;
    }
}

/* Bytes a numeric field of this state has; 0 for states that are no numeric field. */
static const uint8_t field_size[] = {
    [HS_TYPE] = 1,     [HS_LEN] = 3,        [HS_VERSION] = 2,  [HS_SKIP_RANDOM] = 0, [HS_SID_LEN] = 1,
    [HS_SKIP_SID] = 0, [HS_CS_LEN] = 2,     [HS_SKIP_CS] = 0,  [HS_CM_LEN] = 1,      [HS_SKIP_CM] = 0,
    [HS_EXTS_LEN] = 2, [HS_EXT_TYPE] = 2,   [HS_EXT_LEN] = 2,  [HS_SKIP_EXT] = 0,    [HS_SN_LIST] = 2,
    [HS_SN_TYPE] = 1,  [HS_SN_LEN] = 2,     [HS_SN_NAME] = 0,  [HS_SV_LEN] = 1,      [HS_SV_ITEM] = 2,
};

static bool is_grease(uint32_t v)
{
    return (v & 0x0f0fU) == 0x0a0aU && (v >> 8) == (v & 0xffU);
}

/* A new extension of type ext_type and @len bytes begins. */
static enum mt_hello_result ext_begin(struct mt_hello *h, uint32_t len)
{
    if (len > h->ext_left)
        return MT_HELLO_MALFORMED;
    h->data_left = len;
    switch (h->ext_type) {
    case EXT_SERVER_NAME:
        if (h->saw_name || len < 2 + 1 + 2 + 1)
            return MT_HELLO_MALFORMED; /* a second one, or one without a name */
        h->state = HS_SN_LIST;
        return MT_HELLO_MORE;
    case EXT_SUPPORTED_VERSIONS:
        if (len < 3)
            return MT_HELLO_MALFORMED;
        h->state = HS_SV_LEN;
        return MT_HELLO_MORE;
    case EXT_ECH:
        h->saw_ech = true;
        break;
    default:
        break;
    }
    if (len == 0)
        return ext_next(h);
    skip_to(h, HS_SKIP_EXT, len);
    return MT_HELLO_MORE;
}

/* A numeric field is complete: @v is its value. */
static enum mt_hello_result field_done(struct mt_hello *h, uint32_t v)
{
    switch ((enum hs_state)h->state) {
    case HS_TYPE:
        if (v != 1)
            return MT_HELLO_MALFORMED;
        h->state = HS_LEN;
        return MT_HELLO_MORE;
    case HS_LEN:
        if (v > h->max_bytes)
            return MT_HELLO_TOO_BIG;
        h->body_left = v;
        h->state = HS_VERSION;
        /* version, random, empty session id, one cipher suite, one compression method */
        return v < 2 + 32 + 1 + 2 + 2 + 1 + 1 ? MT_HELLO_MALFORMED : MT_HELLO_MORE;
    case HS_VERSION:
        h->legacy_version = (uint16_t)v;
        skip_to(h, HS_SKIP_RANDOM, 32);
        return MT_HELLO_MORE;
    case HS_SID_LEN:
        if (v > 32 || v > h->body_left)
            return MT_HELLO_MALFORMED;
        if (v == 0)
            h->state = HS_CS_LEN;
        else
            skip_to(h, HS_SKIP_SID, v);
        return MT_HELLO_MORE;
    case HS_CS_LEN:
        if (v < 2 || (v & 1U) || v > h->body_left)
            return MT_HELLO_MALFORMED;
        skip_to(h, HS_SKIP_CS, v);
        return MT_HELLO_MORE;
    case HS_CM_LEN:
        if (v < 1 || v > h->body_left)
            return MT_HELLO_MALFORMED;
        skip_to(h, HS_SKIP_CM, v);
        return MT_HELLO_MORE;
    case HS_EXTS_LEN:
        if (v != h->body_left)
            return MT_HELLO_MALFORMED; /* too long, or trailing bytes inside the message */
        h->ext_left = v;
        return ext_next(h);
    case HS_EXT_TYPE:
        h->ext_type = (uint16_t)v;
        h->state = HS_EXT_LEN;
        return MT_HELLO_MORE;
    case HS_EXT_LEN:
        return ext_begin(h, v);
    case HS_SN_LIST:
        if (v != h->data_left)
            return MT_HELLO_MALFORMED;
        h->state = HS_SN_TYPE;
        return MT_HELLO_MORE;
    case HS_SN_TYPE:
        if (v != 0)
            return MT_HELLO_MALFORMED;
        h->state = HS_SN_LEN;
        return MT_HELLO_MORE;
    case HS_SN_LEN:
        if (v < 1 || v > NAME_WIRE_MAX || v != h->data_left)
            return MT_HELLO_MALFORMED; /* equal: exactly one entry in the list */
        h->saw_name = true;
        h->name_len = 0;
        h->state = HS_SN_NAME;
        return MT_HELLO_MORE;
    case HS_SV_LEN:
        if (v < 2 || (v & 1U) || v != h->data_left)
            return MT_HELLO_MALFORMED;
        h->state = HS_SV_ITEM;
        return MT_HELLO_MORE;
    case HS_SV_ITEM:
        if (!is_grease(v) && (v >> 8) == 3 && v > h->best_version)
            h->best_version = (uint16_t)v;
        return h->data_left == 0 ? ext_next(h) : MT_HELLO_MORE;
    case HS_SKIP_RANDOM:
    case HS_SKIP_SID:
    case HS_SKIP_CS:
    case HS_SKIP_CM:
    case HS_SKIP_EXT:
    case HS_SN_NAME:
        break;
    }
    return MT_HELLO_MALFORMED;
}

/* Take @n bytes off every parent that is open in this state; false if one of them does not hold them. */
static inline bool charge(struct mt_hello *h, uint32_t n)
{
    if (h->state <= HS_LEN)
        return true; /* the message header is outside of its body */
    if (n > h->body_left)
        return false;
    if (h->state >= HS_EXT_TYPE) {
        if (n > h->ext_left)
            return false;
        if (h->state >= HS_SKIP_EXT) {
            if (n > h->data_left)
                return false;
            h->data_left -= n;
        }
        h->ext_left -= n;
    }
    h->body_left -= n;
    return true;
}

/*
 * Extensions that say nothing to us and are here as a whole: most of a hello, passed over without going through the states.
 * Returns the bytes taken; at least one byte of the message is left to read, so that its end is found where it always is.
 */
static uint32_t plain_exts(struct mt_hello *h, const uint8_t *p, uint32_t len)
{
    const uint32_t most = len < h->ext_left ? len : h->ext_left; /* ext_left == body_left here: the list ends the message */
    uint32_t at = 0;
    while (most - at > 4) {
        const uint32_t type = (uint32_t)p[at] << 8 | p[at + 1], n = (uint32_t)p[at + 2] << 8 | p[at + 3];
        if (type == EXT_SERVER_NAME || type == EXT_SUPPORTED_VERSIONS || type == EXT_ECH || n >= most - at - 4)
            break;
        at += 4 + n;
    }
    h->ext_left -= at;
    h->body_left -= at;
    return at;
}

/* Handshake layer: @len payload bytes of one record. Stops at the end of the message; what follows is not ours. */
static enum mt_hello_result hs_bytes(struct mt_hello *h, const uint8_t *p, uint32_t len)
{
    while (len > 0) {
        enum mt_hello_result r = MT_HELLO_MORE;
        uint32_t n;
        if (h->state == HS_EXT_TYPE && h->have == 0) {
            n = plain_exts(h, p, len);
            p += n;
            len -= n;
        }
        const unsigned size = field_size[h->state];
        if (size > 0) {
            n = size - h->have < len ? size - h->have : len; /* what there is of it */
            if (!charge(h, n))
                return MT_HELLO_MALFORMED;
            uint32_t v = h->acc;
            for (uint32_t i = 0; i < n; i++)
                v = (v << 8) | p[i];
            h->acc = v;
            h->have = (uint8_t)(h->have + n);
            if (h->have == size) {
                h->acc = 0;
                h->have = 0;
                r = field_done(h, v);
            }
        } else if (h->state == HS_SN_NAME) {
            n = len < h->data_left ? len : h->data_left;
            if (!charge(h, n))
                return MT_HELLO_MALFORMED;
            memcpy(h->name + h->name_len, p, n); /* name_len + data_left <= 255, checked with the length */
            h->name_len = (uint16_t)(h->name_len + n);
            if (h->data_left == 0)
                r = ext_next(h);
        } else {
            n = len < h->skip ? len : h->skip;
            if (!charge(h, n))
                return MT_HELLO_MALFORMED;
            h->skip -= n;
            if (h->skip == 0)
                r = skip_done(h);
        }
        if (r != MT_HELLO_MORE)
            return r;
        if (h->state > HS_LEN && h->body_left == 0)
            return MT_HELLO_MALFORMED; /* the message is over in the middle of a field */
        p += n;
        len -= n;
    }
    return MT_HELLO_MORE;
}

/* Record layer header byte. */
static enum mt_hello_result rec_header(struct mt_hello *h, uint8_t b)
{
    switch ((enum rec_state)h->rec_state) {
    case REC_TYPE:
        if (b != REC_TYPE_HANDSHAKE)
            return h->first_record_done ? MT_HELLO_MALFORMED : MT_HELLO_NOT_TLS;
        h->rec_state = REC_MAJOR;
        return MT_HELLO_MORE;
    case REC_MAJOR:
        if (b != 3)
            return h->first_record_done ? MT_HELLO_MALFORMED : MT_HELLO_NOT_TLS;
        h->rec_state = REC_MINOR;
        return MT_HELLO_MORE;
    case REC_MINOR:
        h->rec_state = REC_LEN_HI;
        return MT_HELLO_MORE;
    case REC_LEN_HI:
        h->rec_left = (uint32_t)b << 8;
        h->rec_state = REC_LEN_LO;
        return MT_HELLO_MORE;
    case REC_LEN_LO:
        h->rec_left |= b;
        h->first_record_done = true;
        h->rec_state = REC_PAYLOAD;
        return h->rec_left == 0 || h->rec_left > REC_PAYLOAD_MAX ? MT_HELLO_MALFORMED : MT_HELLO_MORE;
    case REC_PAYLOAD:
        break;
    }
    return MT_HELLO_MALFORMED;
}

enum mt_hello_result mt_hello_feed(struct mt_hello *h, const uint8_t *data, size_t len)
{
    enum mt_hello_result r = (enum mt_hello_result)h->result;
    while (r == MT_HELLO_MORE && len > 0) {
        uint32_t n = 1;
        uint32_t room = h->max_bytes - h->used; /* > 0: at 0 the result is TOO_BIG */
        if (h->rec_state == REC_PAYLOAD) {
            n = h->rec_left < room ? h->rec_left : room;
            if (len < n)
                n = (uint32_t)len;
            r = hs_bytes(h, data, n);
            h->rec_left -= n;
            if (h->rec_left == 0)
                h->rec_state = REC_TYPE;
        } else {
            r = rec_header(h, *data);
        }
        h->used += n;
        data += n;
        len -= n;
        if (r == MT_HELLO_MORE && h->used >= h->max_bytes)
            r = MT_HELLO_TOO_BIG;
    }
    h->result = (uint8_t)r;
    return r;
}

const char *mt_hello_result_name(enum mt_hello_result r)
{
    static const char *const names[MT_HELLO_RESULT_MAX] = {
        [MT_HELLO_MORE] = "more",         [MT_HELLO_NAME] = "ok",
        [MT_HELLO_NO_NAME] = "no_sni",    [MT_HELLO_BAD_NAME] = "bad_name",
        [MT_HELLO_NOT_TLS] = "not_tls",   [MT_HELLO_MALFORMED] = "malformed",
        [MT_HELLO_TOO_BIG] = "too_big",
    };
    return (unsigned)r < MT_HELLO_RESULT_MAX ? names[r] : "unknown";
}
