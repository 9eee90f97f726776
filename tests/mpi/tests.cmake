add_mpi_test(agree RANKS 1 2 4)
add_mpi_test(communicator RANKS 1 2 3 4)
add_mpi_test(exact RANKS 1 2 4)
add_mpi_test(tensor_parallel RANKS 1 2 4)
