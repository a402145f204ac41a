// Command asm writes the assembly of package match. It is a module of its own, so that
// the product does not depend on avo; "go generate" in the package runs it. What it
// writes is committed, and running it again must change nothing.
package main

import (
	"flag"
	"log"

	. "github.com/mmcloughlin/avo/build"
)

func main() {
	group := flag.String("group", "", "kernels to write: cpu, nishani or avx512")
	flag.Parse()
	ConstraintExpr("!purego")
	switch *group {
	case "cpu":
		cpuid()
	case "nishani":
		hkdfNI()
		bluezoneNI()
		gaenNI("expandGAENNI", false)
		gaenNI("probeGAENNI", true)
	case "avx512":
		hkdf16()
		gaen4("expandGAEN4", noProbe)
		gaen4("probeGAEN4Gather", gatherProbe)
		gaen4("probeGAEN4Scalar", scalarProbe)
		bluezone16("expandBluezone16", noProbe)
		bluezone16("probeBluezone16Gather", gatherProbe)
		bluezone16("probeBluezone16Scalar", scalarProbe)
	default:
		log.Fatalf("unknown group %q", *group)
	}
	Generate()
}
