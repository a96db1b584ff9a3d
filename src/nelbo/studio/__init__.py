"""The web page: generate, edit, evaluate, watch the chain, compare.

A browser sends one request a task, settings and pictures, and reads server-sent events until the
task ends; closing the connection cancels it. One thread holds the models and does one task at a
time, a bounded queue waits for it, and everything heavy is imported there, so that the server
answers before the models are loaded.
"""
