/* The web page, page.html, as scripts/embed_page.py puts it into the program. */
#pragma once

#include <stddef.h>

extern const unsigned char page_html[]; /* [page_size] UTF-8 */
extern const size_t page_size;
extern const char page_policy[]; /* for the Content-Security-Policy header */
