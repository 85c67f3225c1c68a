#include "rpc/build_id.h"

#include "rpc/build_id_value.h" /* generated */

const char *build_id(void) {
    return LOCKSTEP_BUILD_ID;
}
