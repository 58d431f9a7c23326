/* The least that a scan needs on a Pi: read the device, have 64 bytes on disk, raise the line.
 *
 *     vm_floor hid|serial DEVICE FILE LINE
 *
 * DEVICE is grabbed, or made raw. LINE is one of /dev/gpiochip0; it is up for HELD_US, so that its edges can be told
 * apart. Says "ready" once, and goes on until it is killed.
 *
 * Facts: linux/input.h, linux/gpio.h (the second version of the character device), termios(3).
 */
#include <err.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <linux/input.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define HELD_US 20000
#define RECORD 64

static int claimed(unsigned offset)
{
	struct gpio_v2_line_request request = {
		.offsets = { offset }, .num_lines = 1, .consumer = "floor", .config.flags = GPIO_V2_LINE_FLAG_OUTPUT,
	};
	int chip = open("/dev/gpiochip0", O_RDWR | O_CLOEXEC);

	if (chip < 0 || ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request) < 0)
		err(1, "line %u", offset);
	return request.fd;
}

static void drive(int line, int level)
{
	struct gpio_v2_line_values values = { .bits = level, .mask = 1 };

	if (ioctl(line, GPIO_V2_LINE_SET_VALUES_IOCTL, &values) < 0)
		err(1, "drive");
}

static int opened(const char *path, int hid)
{
	int device = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios raw;

	if (device < 0)
		err(1, "%s", path);
	if (hid) {
		if (ioctl(device, EVIOCGRAB, 1) < 0)
			err(1, "grab");
		return device;
	}
	if (tcgetattr(device, &raw) < 0)
		err(1, "%s", path);
	cfmakeraw(&raw);
	if (tcsetattr(device, TCSANOW, &raw) < 0)
		err(1, "%s", path);
	return device;
}

/* Whether what was read ends a barcode. */
static int ended(const char *data, ssize_t size, int hid)
{
	const struct input_event *event = (const void *)data;

	if (!hid)
		return memchr(data, '\r', size) != NULL;
	for (; size >= (ssize_t)sizeof *event; size -= sizeof *event, event++)
		if (event->type == EV_KEY && event->code == KEY_ENTER && event->value == 1)
			return 1;
	return 0;
}

int main(int count, char **words)
{
	_Alignas(struct input_event) char data[64 * sizeof(struct input_event)];
	char record[RECORD];
	int hid, device, file, line;
	struct pollfd coming;

	if (count != 5)
		errx(2, "usage: vm_floor hid|serial DEVICE FILE LINE");
	hid = strcmp(words[1], "hid") == 0;
	device = opened(words[2], hid);
	file = open(words[3], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (file < 0)
		err(1, "%s", words[3]);
	line = claimed(strtoul(words[4], NULL, 10));
	memset(record, 'x', sizeof record);
	coming = (struct pollfd){ .fd = device, .events = POLLIN };
	puts("ready");
	fflush(stdout);
	for (;;) {
		ssize_t size;

		if (poll(&coming, 1, -1) < 0 || (size = read(device, data, sizeof data)) <= 0)
			err(1, "read");
		if (!ended(data, size, hid))
			continue;
		if (write(file, record, sizeof record) != sizeof record || fdatasync(file) < 0)
			err(1, "%s", words[3]);
		drive(line, 1);
		usleep(HELD_US);
		drive(line, 0);
	}
}
