/* SPDX-License-Identifier: Apache-2.0 */
/* The frame of every HTML page that moat-control serves: one style, no script, strict headers; forms read with their CSRF
 * token. Pages are small and few: signing in, approving a device, setting a password (control-plane.md §10.2, §10.3). */
#pragma once

#include "control/api/call.h"
#include "control/auth/form.h"

#define MT_PAGE_COOKIE "__Host-moat"
#define MT_CSRF_SIZE 33

/** A page under way: body is HTML that has been escaped where it must be. */
struct mt_page {
    struct mt_api_call *c;
    struct mt_buf body;
    char cookie[MT_TOKEN_SIZE]; /* the browser's, or a new one that is set with the answer */
    bool set_cookie;
    char csrf[MT_CSRF_SIZE];
};

/** Take the browser's cookie or make one. */
void mt_page_begin(struct mt_page *p, struct mt_api_call *c);
/** Read the posted form and check its CSRF token. 0; -1: a page that says why was sent. */
int mt_page_form(struct mt_page *p, struct mt_form *ret);
/** From now on the browser's cookie is @cookie. */
void mt_page_cookie(struct mt_page *p, const char *cookie);

/** Add trusted HTML. */
void mt_page_html(struct mt_page *p, const char *html);
/** Add text, escaped for content and for attributes in double quotes. */
void mt_page_text(struct mt_page *p, const char *text);
/** A red or plain box of text at the top. */
void mt_page_notice(struct mt_page *p, const char *text);
/** Open a form that posts to @action, with the CSRF token in it. */
void mt_page_form_open(struct mt_page *p, const char *action);
void mt_page_hidden(struct mt_page *p, const char *name, const char *value);
/** A labelled field. @more: trusted attributes, " required autofocus". */
void mt_page_field(struct mt_page *p, const char *label, const char *name, const char *type, const char *value, const char *more);

/** Send the page. Always 0. */
int mt_page_send(struct mt_page *p, unsigned status, const char *title);
/** Go on at @path by GET, after a form was done. Always 0. */
int mt_page_redirect(struct mt_page *p, const char *path);
/** A page with one sentence. Always 0. */
int mt_page_say(struct mt_page *p, unsigned status, const char *title, const char *text);
