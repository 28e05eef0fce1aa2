"""Ray Tune, which places trials and shows them: the cluster, the actor that runs trials, the driver's account of them."""
