"""Peers on several hosts, which are network namespaces of this one; they need root and iproute2."""
