/* libcuda.so.1 of a machine that has a driver: the program only looks whether it is there. */
int gpusim_driver(void);

int gpusim_driver(void) {
    return 1;
}
