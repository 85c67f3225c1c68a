/* Files of this folder that scripts/embed.py puts into the program. UTF-8, without a NUL. */
#pragma once

#include <stddef.h>

/* page.html, at / */
extern const unsigned char page_html[]; /* [page_html_size] */
extern const size_t page_html_size;
extern const char page_html_policy[]; /* for the Content-Security-Policy header */

/* openapi.json: what the paths are, what they take and give. */
extern const unsigned char openapi_json[]; /* [openapi_json_size] */
extern const size_t openapi_json_size;
