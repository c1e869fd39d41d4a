// SPDX-License-Identifier: GPL-2.0

//! Descriptors: the structures in GPU memory that job chains are made of.
