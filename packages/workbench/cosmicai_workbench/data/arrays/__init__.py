"""Arrays of galaxies in HDF5, Zarr, NumPy and Parquet files, into partitions."""
