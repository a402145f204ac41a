// Package api holds the protocol of bluekey for programs: the .proto files under
// bluekey/v1 and the Go code generated from them, which is committed.
//
//	go generate ./server/api
//
// makes it again and leaves no difference. buf comes from the module of build tools in
// .ci/tools and needs no network once that is downloaded; the plugins come from the
// product's own module.
package api

//go:generate go tool -modfile=../../.ci/tools/go.mod buf lint
//go:generate go tool -modfile=../../.ci/tools/go.mod buf generate
