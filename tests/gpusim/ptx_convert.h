/* cvt, which is a file of its own. */
#pragma once

#include "ptx_compile.h"

ptx_decode_fn ptx_decode_cvt;
