/* Where NCCL's own log goes. It prints to stdout by default, which carries results only. */
#pragma once

/* To be called before NCCL reads its environment. What the user set in NCCL_DEBUG_FILE stands. */
void nccl_log_to_stderr(void);
