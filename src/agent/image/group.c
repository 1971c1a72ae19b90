/* SPDX-License-Identifier: Apache-2.0 */
/* What the children may take from the VMs: nothing, or as good as nothing. */
#include "agent/image/internal.h"

void image_group_open(struct mt_image_store *s)
{
    (void)pthread_mutex_init(&s->group_lock, NULL);
    /* Without cgroups the children give way to nobody: idle policy would then be beside everything on the machine, and on a full one
     * an image would never be done. The agent says elsewhere that they are missing. */
    s->group_usable = s->conf.cgroup_parent && mt_cgroup_open(&s->group_host, NULL, s->conf.cgroup_parent, NULL) == 0;
}

void image_group_set(struct mt_image_store *s, enum mt_cgroup_yield yield, char ret_procs[MT_CGROUP_PATH * 2])
{
    ret_procs[0] = '\0';
    (void)pthread_mutex_lock(&s->group_lock);
    if (s->group_usable && mt_cgroup_work(&s->group_host, "work", yield, s->beside_vms, ret_procs, NULL) < 0)
        ret_procs[0] = '\0';
    (void)pthread_mutex_unlock(&s->group_lock);
}

void mt_image_beside_vms(struct mt_image_store *store, bool vms)
{
    char procs[MT_CGROUP_PATH * 2];
    (void)pthread_mutex_lock(&store->group_lock);
    bool change = store->beside_vms != vms;
    store->beside_vms = vms;
    (void)pthread_mutex_unlock(&store->group_lock);
    (void)pthread_mutex_lock(&store->lock);
    bool working = store->pulls || store->builds;
    (void)pthread_mutex_unlock(&store->lock);
    if (change && working) /* what begins later asks then */
        image_group_set(store, MT_CGROUP_YIELD_WHOLLY, procs);
}

void mt_image_remove_group(struct mt_image_store *store)
{
    (void)pthread_mutex_lock(&store->group_lock);
    if (store->group_usable)
        mt_cgroup_work_remove(&store->group_host, "work");
    (void)pthread_mutex_unlock(&store->group_lock);
}
