# SPDX-License-Identifier: Apache-2.0
"""Identities for tests: users with sessions and personal tokens, made the way the server makes them where that does not
need a browser, and put into its tables where it does."""
import base64, hashlib, os
from control_kit import call

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def new_token(prefix):
    body = prefix + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
    return body + hashlib.sha256(body.encode()).hexdigest()[:6]


def token_hash(token):
    return hashlib.sha256(token.encode()).hexdigest()


class Person:
    """A user with a session. Its invitations are activated by the refresh, as at a sign-in."""

    def __init__(self, world, email, scopes=None, operator=False):
        self.w, self.email = world, email
        u = world.ok("POST", "/v1/users", {"email": email, "is_operator": operator})
        self.id, self.setup_url = u["id"], u["setup_url"]
        self.scopes = scopes
        self.login()

    def login(self, scopes=None):
        refresh = new_token("moat_rt_")
        names = scopes or self.scopes or self.w.all_scopes
        self.w.pg.sql("INSERT INTO moat.refresh_tokens (token_hash, family_id, user_id, client_name, scopes, expires_at, family_until)"
                      " VALUES (decode('%s','hex'), 'fam_%s', '%s', 'test', '{%s}', now() + interval '1 day', now() + interval '1 day')"
                      % (token_hash(refresh), os.urandom(8).hex(), self.id, ",".join(names)))
        r = call(self.w.api, "POST", "/v1/auth/token/refresh", {"refresh_token": refresh})
        assert r.status == 200, r.text
        self.token, self.refresh = r.json["access_token"], r.json["refresh_token"]
        return self.token

    def q(self, method, target, body=None, token=None, **headers):
        h = {"Authorization": "Bearer " + (token or self.token)}
        h.update({k.replace("_", "-"): v for k, v in headers.items()})
        return call(self.w.api, method, target, body, h)

    def ok(self, method, target, body=None, **headers):
        r = self.q(method, target, body, **headers)
        assert r.status in (200, 201), "%s %s -> %d %s" % (method, target, r.status, r.text.decode()[:500])
        return r.json


def prepare(world):
    world.all_scopes = world.ok("GET", "/v1/auth/whoami")["scopes"]
