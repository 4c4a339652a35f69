"""How fast studies are on Spark, against others on the same work: `scripts/bench.sh`."""
