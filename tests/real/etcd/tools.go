//go:build tools

// Package tools names the program that is built from this module, so that go.sum covers what it imports.
package tools

import _ "go.etcd.io/etcd/server/v3"
