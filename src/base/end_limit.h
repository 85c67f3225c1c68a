/* A limit on the end of the process: what is stuck may be what its last words need, such as the
 * file system or a full pipe. */
#pragma once

/* In so many seconds the process ends with this exit code, wherever its
 * threads are. Any thread; the last call counts. */
void end_limit(unsigned seconds, int exit_code);
