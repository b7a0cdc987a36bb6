/* SPDX-License-Identifier: GPL-2.0-or-later */
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
