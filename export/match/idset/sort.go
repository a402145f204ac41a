package idset

import "slices"

// sorter sorts hashes: scattered first to partitions that fit the second-level cache, by
// their top bits, then within each by counting the next bits so finely that about one
// value meets each counter, and by insertion. Hashes are uniform, so this is linear; a
// counter that collects many all the same is left to the library's sort.
type sorter struct {
	scattered []uint64
	bounds    []uint32 // of partitions in scattered
	counts    [1 << fineBits]uint32
	part      []uint64
}

const (
	partitionBits = 5 // blocks of a partition: 2^5, about 8,192 values in 64 kB
	fineBits      = 13
	crowd         = 64
)

// sort gives the values in order, one partition after the other: each call of next gets
// those from base to the next multiple of 2^(f+blockBits+partitionBits). All values lie
// between low and high, low a multiple of that too.
func (s *sorter) sort(values []uint64, low, high uint64, f int, next func(base uint64, part []uint64) error) error {
	shift := uint(f+blockBits+partitionBits) & 63 // spares a test at every shift
	n := int((high - low + 1<<shift - 1) >> shift)
	s.bounds = append(s.bounds[:0], make([]uint32, n+1)...)
	for _, v := range values {
		s.bounds[(v-low)>>shift+1]++
	}
	for i := 1; i <= n; i++ {
		s.bounds[i] += s.bounds[i-1]
	}
	s.scattered = slices.Grow(s.scattered[:0], len(values))[:len(values)]
	for _, v := range values {
		at := &s.bounds[(v-low)>>shift]
		s.scattered[*at] = v
		*at++
	}
	// Each bound has moved on to its partition's end.
	from := uint32(0)
	for i := range n {
		to := s.bounds[i]
		base := low + uint64(i)<<shift
		if err := next(base, s.fine(s.scattered[from:to], base, shift-fineBits)); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// fine sorts a partition; its result is valid until the next.
func (s *sorter) fine(part []uint64, base uint64, shift uint) []uint64 {
	shift &= 63
	clear(s.counts[:])
	for _, v := range part {
		s.counts[(v-base)>>shift%(1<<fineBits)]++
	}
	sum, most := uint32(0), uint32(0)
	for i, c := range s.counts {
		most = max(most, c)
		s.counts[i] = sum
		sum += c
	}
	s.part = slices.Grow(s.part[:0], len(part))[:len(part)]
	for _, v := range part {
		at := &s.counts[(v-base)>>shift%(1<<fineBits)]
		s.part[*at] = v
		*at++
	}
	if most > crowd {
		slices.Sort(s.part)
		return s.part
	}
	for i := 1; i < len(s.part); i++ {
		v, j := s.part[i], i
		for ; j > 0 && s.part[j-1] > v; j-- {
			s.part[j] = s.part[j-1]
		}
		s.part[j] = v
	}
	return s.part
}
