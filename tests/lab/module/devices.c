// SPDX-License-Identifier: GPL-2.0-only
/* Devices of the VMM that are told to write to a page frame of the attacker's choice, each by a driver of our own. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include "mbectest.h"

#define PATIENCE	10000	/* milliseconds */

static struct virtqueue *queue;	/* the first one of the device that we drive; guarded by the device's lock */

static int probe(struct virtio_device *device)
{
	struct virtqueue *first;

	if (queue)
		return -EBUSY;
	first = virtio_find_single_vq(device, NULL, "mbectest");
	if (IS_ERR(first))
		return PTR_ERR(first);
	virtio_device_ready(device);
	queue = first;
	return 0;
}

static void unplug(struct virtio_device *device)
{
	virtio_reset_device(device);
	device->config->del_vqs(device);
	queue = NULL;
}

static const struct virtio_device_id balloons[] = { { VIRTIO_ID_BALLOON, VIRTIO_DEV_ANY_ID }, {} };
static const struct virtio_device_id cards[] = { { VIRTIO_ID_NET, VIRTIO_DEV_ANY_ID }, {} };

static struct virtio_driver balloon = {
	.driver.name = "mbectest-balloon", .id_table = balloons, .probe = probe, .remove = unplug,
};
static struct virtio_driver card = {
	.driver.name = "mbectest-card", .id_table = cards, .probe = probe, .remove = unplug,
};

/* How many bytes the device has written, or -errno. */
static int offer(struct scatterlist *buffer, bool written)
{
	unsigned int bytes;
	int r, i;

	r = written ? virtqueue_add_inbuf(queue, buffer, 1, buffer, GFP_KERNEL) :
		      virtqueue_add_outbuf(queue, buffer, 1, buffer, GFP_KERNEL);
	if (r)
		return r;
	virtqueue_kick(queue);
	for (i = 0; i < PATIENCE / 10; i++) {
		if (virtqueue_get_buf(queue, &bytes))
			return bytes;
		msleep(10);
	}
	return -ETIMEDOUT;
}

static int drive(struct virtio_driver *driver, struct scatterlist *buffer, bool written, char *text,
		 size_t size)
{
	int r = register_virtio_driver(driver);

	if (r)
		return r;
	r = queue ? offer(buffer, written) : -ENODEV;
	unregister_virtio_driver(driver);
	return r < 0 ? r : scnprintf(text, size, "%d", r);
}

/* PA: the balloon takes the page frame, and gives it back. */
int mbectest_verb_balloon(const u64 *words, int count, char *text, size_t size)
{
	__virtio32 *frame = kmalloc(sizeof(*frame), GFP_KERNEL);
	struct scatterlist buffer;
	int r;

	if (!frame)
		return -ENOMEM;
	*frame = (__force __virtio32)(u32)PHYS_PFN(words[0]);
	sg_init_one(&buffer, frame, sizeof(*frame));
	r = drive(&balloon, &buffer, false, text, size);
	kfree(frame);
	return r;
}

static void name(struct scatterlist *buffer, u64 pa, unsigned int bytes)
{
	sg_init_table(buffer, 1);
	sg_set_page(buffer, pfn_to_page(PHYS_PFN(pa)), bytes, offset_in_page(pa));
}

/* PA BYTES: the network card's next packet goes there; how many bytes it had. */
int mbectest_verb_receive(const u64 *words, int count, char *text, size_t size)
{
	struct scatterlist buffer;

	name(&buffer, words[0], words[1]);
	return drive(&card, &buffer, true, text, size);
}

/* PA: the first sector of the disk goes there. */
int mbectest_verb_read_disk(const u64 *words, int count, char *text, size_t size)
{
	struct file *disk = filp_open("/dev/vda", O_RDONLY, 0);
	struct bio_vec vec;
	struct bio bio;
	int r;

	if (IS_ERR(disk))
		return PTR_ERR(disk);
	bio_init(&bio, I_BDEV(disk->f_mapping->host), &vec, 1, REQ_OP_READ);
	__bio_add_page(&bio, pfn_to_page(PHYS_PFN(words[0])), SECTOR_SIZE,
		       offset_in_page(words[0]));
	r = submit_bio_wait(&bio);
	bio_uninit(&bio);
	filp_close(disk, NULL);
	return r ?: scnprintf(text, size, "read");
}
