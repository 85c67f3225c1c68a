"""What scripts/lib.sh's mpi_environment is to the shell's scripts."""
import os


def mpi_environment(bind):
    """For Open MPI, where nothing else is given. bind: each of two ranks to one core, with all its threads, as
    it does by itself."""
    wanted = {"OMPI_MCA_rmaps_base_oversubscribe": "1"}
    if not bind:
        wanted["OMPI_MCA_hwloc_base_binding_policy"] = "none"
    if os.getuid() == 0:
        wanted.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
