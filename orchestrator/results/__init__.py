"""What runs leave behind: four Parquet tables of one explicit schema each (`schema`), written and read by `store`."""
