/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/websocket.h"

#include "os/digest.h"
#include "os/file.h"

#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void base64(const uint8_t *in, size_t n, char *out)
{
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)in[i] << 16 | (i + 1 < n ? (uint32_t)in[i + 1] << 8 : 0) | (i + 2 < n ? in[i + 2] : 0);
        *out++ = alphabet[v >> 18];
        *out++ = alphabet[v >> 12 & 63];
        *out++ = i + 1 < n ? alphabet[v >> 6 & 63] : '=';
        *out++ = i + 2 < n ? alphabet[v & 63] : '=';
    }
    *out = 0;
}

void mt_ws_key(char ret[25])
{
    uint8_t bytes[16];
    mt_random(bytes, sizeof bytes);
    base64(bytes, sizeof bytes, ret);
}

bool mt_ws_accept(const char *key, char ret[MT_WS_ACCEPT_SIZE])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[24 + sizeof guid];
    uint8_t hash[MT_SHA1_LEN];
    if (!key || strlen(key) != 24 || key[22] != '=' || key[23] != '=')
        return false;
    for (size_t i = 0; i < 22; i++)
        if (!strchr(alphabet, key[i]))
            return false;
    memcpy(text, key, 24);
    memcpy(text + 24, guid, sizeof guid);
    mt_sha1_of(text, sizeof text - 1, hash);
    base64(hash, sizeof hash, ret);
    return true;
}

size_t mt_ws_head(uint8_t out[MT_WS_HEAD_MAX], enum mt_ws_op op, size_t len, const uint8_t mask[4])
{
    size_t n = 2;
    uint8_t bit = mask ? 0x80 : 0;
    out[0] = (uint8_t)(0x80 | (unsigned)op);
    if (len < 126) {
        out[1] = (uint8_t)(bit | len);
    } else if (len < 65536) {
        out[1] = bit | 126;
        out[2] = (uint8_t)(len >> 8);
        out[3] = (uint8_t)len;
        n = 4;
    } else {
        out[1] = bit | 127;
        for (size_t i = 0; i < 8; i++)
            out[2 + i] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
        n = 10;
    }
    if (mask) {
        memcpy(out + n, mask, 4);
        n += 4;
    }
    return n;
}

void mt_ws_mask(uint8_t *p, size_t len, const uint8_t mask[4])
{
    uint64_t word;
    size_t i = 0;
    uint8_t twice[8];
    memcpy(twice, mask, 4);
    memcpy(twice + 4, mask, 4);
    memcpy(&word, twice, 8);
    for (; i + 8 <= len; i += 8) {
        uint64_t v;
        memcpy(&v, p + i, 8);
        v ^= word;
        memcpy(p + i, &v, 8);
    }
    for (; i < len; i++)
        p[i] ^= mask[i & 3];
}

static bool op_known(unsigned op)
{
    return op == MT_WS_TEXT || op == MT_WS_BINARY || op == MT_WS_CLOSE || op == MT_WS_PING || op == MT_WS_PONG;
}

int mt_ws_decode(uint8_t *data, size_t len, bool from_client, size_t max, struct mt_ws_frame *ret, size_t *ret_used, struct mt_err *err)
{
    if (len < 2)
        return 1;
    unsigned op = data[0] & 15;
    bool masked = data[1] & 0x80;
    uint64_t n = data[1] & 0x7f;
    size_t head = 2;
    if ((data[0] & 0xf0) != 0x80 || !op_known(op))
        return MT_FAIL(err, MT_E_INVALID, "websocket: fragments, extensions and unknown frames are not taken");
    if (masked != from_client)
        return MT_FAIL(err, MT_E_INVALID, "websocket: frames of a client are masked, of a server not");
    if (op >= MT_WS_CLOSE && n > MT_WS_CONTROL_MAX)
        return MT_FAIL(err, MT_E_INVALID, "websocket: a control frame is too long");
    if (n >= 126) {
        size_t bytes = n == 126 ? 2 : 8;
        if (len < 2 + bytes)
            return 1;
        n = 0;
        for (size_t i = 0; i < bytes; i++)
            n = n << 8 | data[2 + i];
        if (n < (bytes == 2 ? 126u : 65536u))
            return MT_FAIL(err, MT_E_INVALID, "websocket: the length has a shorter form");
        head += bytes;
    }
    if (n > max)
        return MT_FAIL(err, MT_E_LIMIT, "websocket: a message of more than %zu bytes", max);
    size_t mask_at = head;
    head += masked ? 4 : 0;
    if (len < head || len - head < n)
        return 1;
    if (masked) {
        uint8_t mask[4];
        memcpy(mask, data + mask_at, 4);
        mt_ws_mask(data + head, (size_t)n, mask);
    }
    *ret = (struct mt_ws_frame){.op = (enum mt_ws_op)op, .payload = data + head, .len = (size_t)n};
    *ret_used = head + (size_t)n;
    return 0;
}
