-- Changes behind a place: ARGV is the place, how many. Answers with nothing when the place is not known.
if #call('XRANGE', CHANGES, ARGV[1], ARGV[1]) == 0 then
  return false
end
return call('XRANGE', CHANGES, '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
