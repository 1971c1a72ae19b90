/* SPDX-License-Identifier: Apache-2.0 */
/* Shared pieces of the JSON codecs of this folder. */
#include "model/jsonout.h"

#include "wire/json.h"

json_t *mt_jout_take(struct mt_jout *o)
{
    json_t *obj = o->obj;

    o->obj = NULL;
    if (o->failed) {
        json_decref(obj);
        return NULL;
    }
    return obj;
}

json_t *mt_jout_strings(const struct mt_strings *list)
{
    json_t *array = json_array();

    for (size_t i = 0; array && i < list->n; i++)
        if (json_array_append_new(array, json_string(list->v[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

int mt_strings_read(const json_t *obj, const char *key, size_t max_items, size_t max_len, struct mt_strings *ret,
                    struct mt_err *err)
{
    json_t *array, *item;
    size_t i;

    *ret = (struct mt_strings){0};
    int rc = mt_json_opt_array(obj, key, max_items, &array, err);
    if (rc < 0 || !array || json_array_size(array) == 0)
        return rc;
    ret->v = calloc(json_array_size(array), sizeof *ret->v);
    if (!ret->v)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    json_array_foreach(array, i, item) {
        const char *s = json_string_value(item);
        size_t len = json_string_length(item);
        if (!s || len > max_len || strlen(s) != len) {
            mt_strings_done(ret);
            return MT_FAIL(err, MT_E_INVALID, "'%s' must hold strings of at most %zu bytes without NUL", key, max_len);
        }
        ret->v[ret->n++] = s;
    }
    return 0;
}

void mt_strings_done(struct mt_strings *list)
{
    free(list->v);
    *list = (struct mt_strings){0};
}
