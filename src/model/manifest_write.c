/* SPDX-License-Identifier: Apache-2.0 */
/* The smallest manifest that runs an image, for `moat init` and `moat run`. */
#include "model/manifest.h"

#include "model/names.h"
#include "wire/imageref.h"

#include "base/buf.h"
#include "base/str.h"

int mt_manifest_minimal(const struct mt_manifest_minimal *what, struct mt_buf *out, struct mt_err *err)
{
    const char *process = what->process ? what->process : "web";
    const char *env = what->env ? what->env : "production";
    const char *memory = what->memory ? what->memory : "256Mi";
    struct mt_imageref ref;
    int rc;

    /* Every text below is free of quotes, backslashes and control bytes once these checks have passed. */
    if ((rc = mt_imageref_parse(what->image, &ref, err)) < 0 ||
        (what->app && (rc = mt_name_check(MT_NAME_APP, what->app, err)) < 0) ||
        (rc = mt_name_check(MT_NAME_PROCESS, process, err)) < 0 || (rc = mt_name_check(MT_NAME_ENV, env, err)) < 0)
        return rc;
    size_t digits = strspn(memory, "0123456789");
    if (digits == 0 || digits > 6 || (!MT_STREQ(memory + digits, "Mi") && !MT_STREQ(memory + digits, "Gi")))
        return MT_FAIL(err, MT_E_INVALID, "memory must be a whole number and Mi or Gi, for example 256Mi");
    if (what->hostname) {
        const char *fault = mt_hostname_fault(what->hostname, strlen(what->hostname));
        if (fault)
            return MT_FAIL(err, MT_E_INVALID, "host name %s", fault);
        if (!what->port)
            return MT_FAIL(err, MT_E_INVALID, "a host name needs a port to lead to");
    }

    mt_buf_puts(out, "schema_version = \"v1\"\n");
    if (what->app)
        mt_buf_printf(out, "\n[app]\nname = \"%s\"\n", what->app);
    mt_buf_printf(out, "\n[image]\nref = \"%s\"\n\n[processes.%s.resources]\nmemory = \"%s\"\n", what->image, process, memory);
    if (what->port)
        mt_buf_printf(out, "\n[[processes.%s.ports]]\ninternal = %u\n", process, (unsigned)what->port);
    if (what->hostname)
        mt_buf_printf(out, "\n[[routes]]\nenv = \"%s\"\nprocess = \"%s\"\nport = %u\nhostname = \"%s\"\n", env, process,
                      (unsigned)what->port, what->hostname);
    return mt_buf_check(out, err);
}
