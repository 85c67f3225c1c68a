#include "base/build_id.h"

#include "base/build_id_value.h" /* generated */

const char *build_id(void) {
    return LOCKSTEP_BUILD_ID;
}
