add_mpi_test(agree RANKS 1 2 4)
