/* SPDX-License-Identifier: Apache-2.0 */
/* See mesh_survey.h. */
#include "model/mesh_survey.h"

#include "base/assert.h"
#include "base/str.h"

#include <stdio.h>

#define LOST_IN_ROW 3    /* probes, one every 5 s: a pair is cut */
#define LOSSY_PERCENT 20 /* of a minute's probes */
#define SESSION_S 180    /* as long as a WireGuard session may live */

/* Members may be missing or of another type: they are what nodes told. */
static const json_t *member(const json_t *o, const char *path)
{
    const char *dot = strchr(path, '.');
    char first[32];
    if (!dot)
        return json_object_get(o, path);
    (void)snprintf(first, sizeof first, "%.*s", (int)(dot - path), path);
    return json_object_get(json_object_get(o, first), dot + 1);
}

static const char *text(const json_t *o, const char *path)
{
    const char *s = json_string_value(member(o, path));
    return s ? s : "";
}

static int64_t number(const json_t *o, const char *path)
{
    return json_integer_value(member(o, path));
}

struct view { /* what one node says of another */
    const json_t *peer; /* NULL: it does not know it */
    int64_t lost, loss, age, rtt;
    bool probed, shook, mtu_known, mtu_ok;
};

static struct view view_of(const json_t *from, const json_t *of)
{
    struct view v = {.age = -1, .rtt = -1};
    size_t i;
    const json_t *p;
    json_array_foreach(member(from, "mesh.peers"), i, p) {
        if (!MT_STREQ(text(p, "node_id"), text(of, "id")))
            continue;
        v.peer = p;
        v.probed = member(p, "loss_percent") != NULL;
        v.loss = number(p, "loss_percent");
        v.lost = number(p, "lost_in_row");
        v.shook = member(p, "handshake_age_s") != NULL;
        v.age = v.shook ? number(p, "handshake_age_s") : -1;
        v.rtt = member(p, "rtt_us") ? number(p, "rtt_us") : -1;
        v.mtu_known = member(p, "mtu_ok") != NULL;
        v.mtu_ok = json_is_true(member(p, "mtu_ok"));
    }
    return v;
}

static bool reports(const json_t *node)
{
    const char *health = text(node, "health");
    return json_is_object(member(node, "mesh")) && !MT_STREQ(health, "suspect") && !MT_STREQ(health, "offline");
}

/* Does @node hear nobody of at least two whose reports are fresh? */
static bool alone(const json_t *nodes, const json_t *node)
{
    size_t i, silent = 0, others = 0;
    const json_t *o;
    json_array_foreach(nodes, i, o) {
        if (o == node || !reports(o))
            continue;
        others++;
        silent += view_of(node, o).lost >= LOST_IN_ROW;
    }
    return others >= 2 && silent == others;
}

static const char *cut_cause(const json_t *nodes, const json_t *a, const json_t *b, const struct view *ab, const struct view *ba, char ret[256])
{
    const json_t *lonely = alone(nodes, a) ? a : alone(nodes, b) ? b : NULL;
    int64_t port = 51820;

    if (lonely)
        (void)snprintf(ret, 256, "%.64s reaches nobody: its uplink, or UDP %lld to and from it", text(lonely, "name"), (long long)port);
    else if (!ab->shook && !ba->shook)
        (void)snprintf(ret, 256, "never a handshake: an endpoint that is not reachable, UDP %lld blocked between the two, or another key", (long long)port);
    else if (ab->age >= 0 && ab->age < SESSION_S)
        (void)snprintf(ret, 256, "worked until less than %d s ago: the path between the two was cut, or a firewall on it changed", SESSION_S);
    else
        (void)snprintf(ret, 256, "no handshake for %lld s: the path between the two is cut; both reach others", (long long)ab->age);
    return ret;
}

/* State and, unless it is "ok", the likely cause. */
static const char *judge(const json_t *nodes, const json_t *a, const json_t *b, const struct view *ab, const struct view *ba, char cause[256])
{
    const json_t *mute = !reports(a) ? a : !reports(b) ? b : NULL;

    *cause = '\0';
    if (mute) {
        (void)snprintf(cause, 256, "%.64s is %.16s: what it last said is old", text(mute, "name"),
                       json_is_object(member(mute, "mesh")) ? text(mute, "health") : "not in the mesh");
        return "unknown";
    }
    if (!ab->peer || !ba->peer) {
        const json_t *who = !ab->peer ? a : b;
        (void)snprintf(cause, 256, "%.64s does not have the other yet (revision %lld applied)", text(who, "name"),
                       (long long)number(who, "mesh.revision"));
        return "missing";
    }
    if (!ab->probed || !ba->probed) {
        (void)snprintf(cause, 256, "not measured yet");
        return "unknown";
    }
    if (ab->lost >= LOST_IN_ROW && ba->lost >= LOST_IN_ROW) {
        (void)cut_cause(nodes, a, b, ab, ba, cause);
        return "broken";
    }
    if (ab->lost >= LOST_IN_ROW || ba->lost >= LOST_IN_ROW) {
        (void)snprintf(cause, 256, "only %.64s gets answers: a filter for one direction", text(ab->lost >= LOST_IN_ROW ? b : a, "name"));
        return "one-way";
    }
    if ((ab->mtu_known && !ab->mtu_ok) || (ba->mtu_known && !ba->mtu_ok)) {
        (void)snprintf(cause, 256, "packets of full size vanish, small ones pass: a narrower link whose ICMP Packet Too Big is dropped; lower the cluster's mtu");
        return "narrow";
    }
    if (ab->loss >= LOSSY_PERCENT || ba->loss >= LOSSY_PERCENT) {
        (void)snprintf(cause, 256, "%lld %% of the last minute's probes lost", (long long)(ab->loss > ba->loss ? ab->loss : ba->loss));
        return "lossy";
    }
    return "ok";
}

static json_t *pair(const json_t *nodes, const json_t *a, const json_t *b)
{
    struct view ab = view_of(a, b), ba = view_of(b, a);
    char cause[256];
    const char *state = judge(nodes, a, b, &ab, &ba, cause);
    json_t *o = json_pack("{s:s,s:s,s:s}", "a", text(a, "name"), "b", text(b, "name"), "state", state);
    if (!o)
        return NULL;
    if (*cause)
        (void)json_object_set_new(o, "cause", json_string(cause));
    if (ab.age >= 0)
        (void)json_object_set_new(o, "handshake_age_s", json_integer(ab.age));
    if (ab.rtt >= 0)
        (void)json_object_set_new(o, "rtt_us", json_integer(ab.rtt));
    if (ab.probed && ba.probed)
        (void)json_object_set_new(o, "loss_percent", json_integer(ab.loss > ba.loss ? ab.loss : ba.loss));
    if (ab.mtu_known && ba.mtu_known)
        (void)json_object_set_new(o, "mtu_ok", json_boolean(ab.mtu_ok && ba.mtu_ok));
    return o;
}

static json_t *node_row(const json_t *n)
{
    static const char *const numbers[] = {"revision", "mtu", "underlay_mtu", "repairs"};
    static const char *const words[] = {"device", "rejected", "failed"};
    json_t *o = json_pack("{s:s, s:s, s:s}", "name", text(n, "name"), "id", text(n, "id"), "health", text(n, "health"));
    for (size_t i = 0; o && i < MT_ARRAY_LEN(numbers); i++) {
        const json_t *v = json_object_get(member(n, "mesh"), numbers[i]);
        if (json_is_integer(v))
            (void)json_object_set_new(o, numbers[i], json_integer(json_integer_value(v)));
    }
    for (size_t i = 0; o && i < MT_ARRAY_LEN(words); i++) {
        const json_t *v = json_object_get(member(n, "mesh"), words[i]);
        if (json_is_string(v))
            (void)json_object_set_new(o, words[i], json_string(json_string_value(v)));
    }
    return o;
}

json_t *mt_mesh_survey(const json_t *nodes, size_t *ret_bad)
{
    json_t *rows = json_array(), *pairs = json_array();
    size_t n = json_array_size(nodes), meshed = 0;
    *ret_bad = 0;
    for (size_t i = 0; i < n; i++)
        meshed += json_is_object(member(json_array_get(nodes, i), "mesh"));
    for (size_t i = 0; i < n; i++) {
        const json_t *a = json_array_get(nodes, i);
        (void)json_array_append_new(rows, node_row(a));
        for (size_t k = i + 1; k < n; k++) {
            const json_t *b = json_array_get(nodes, k);
            bool one = json_is_object(member(a, "mesh")) || json_is_object(member(b, "mesh"));
            json_t *p = one ? pair(nodes, a, b) : NULL;
            *ret_bad += p && !MT_STREQ(text(p, "state"), "ok");
            if (p)
                (void)json_array_append_new(pairs, p);
        }
    }
    return json_pack("{s:b,s:i,s:o,s:o}", "ok", *ret_bad == 0, "meshed", (int)meshed, "nodes", rows, "pairs", pairs);
}
