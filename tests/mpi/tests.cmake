add_mpi_test(agree RANKS 1 2 4)
add_mpi_test(corpus RANKS 1 2 4)
