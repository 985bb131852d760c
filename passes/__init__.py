"""Rewrites of graphs and loops: simplification, fusion, lowering, schedule primitives, legalisation, memory."""
